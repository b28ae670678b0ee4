"""torchvision's ResNet-34 with a head for the given classes."""

import os
import pickle
import socket
from pathlib import Path
from urllib.error import URLError

import torch
from safetensors.torch import load_file
from torch import nn
from torchvision.models import ResNet, ResNet34_Weights, resnet34

from lance_pipeline.errors import InputError

_SILENT_SECONDS = 60


def build_resnet34(classes: int, stem: str, weights: str = "none", downloads: str | None = None) -> ResNet:
    """A ResNet-34 for images (n, 3, h, w) that gives logits (n, classes).

    Args:
        classes: the number of classes.
        stem: ``imagenet`` as published, or ``small``: the first convolution without stride and no
            pooling, with the same weights.
        weights: ``none`` for random ones, ``imagenet`` for torchvision's official ones, or a file.
            The head is always new.
        downloads: the folder that keeps downloaded weights; torch's cache when None.

    Raises:
        InputError: the weights cannot be had or do not fit.
    """
    # From random weights, residual branches that start at zero make a high learning rate stable
    # (Goyal et al., "Accurate, Large Minibatch SGD", 2017); loaded weights overwrite this.
    model = resnet34(weights=None, zero_init_residual=True)
    if weights != "none":
        _load_backbone(model, _read_weights(weights, downloads), weights)
    model.fc = nn.Linear(model.fc.in_features, classes)
    if stem == "small":
        model.conv1.stride = (1, 1)
        model.maxpool = nn.MaxPool2d(1)
    return model


def imagenet_weights(downloads: str | None) -> dict[str, torch.Tensor]:
    """Torchvision's weights of a ResNet-34 trained on ImageNet, downloaded once.

    Args:
        downloads: the folder that keeps them; torch's cache when None.

    Raises:
        InputError: they could not be downloaded, or read.
    """
    official = ResNet34_Weights.IMAGENET1K_V1
    before = socket.getdefaulttimeout()
    # torch's download would wait for ever for a server that has gone silent.
    socket.setdefaulttimeout(_SILENT_SECONDS)
    try:
        state = official.get_state_dict(model_dir=downloads, progress=False, check_hash=True, weights_only=True)
    except (URLError, OSError, RuntimeError, pickle.UnpicklingError) as error:
        name = os.path.basename(official.url)
        raise InputError(
            f"could not download the ImageNet weights: {error}. Connect to the internet, or set `weights: none`, "
            f"or fetch {official.url} elsewhere and put it at {os.path.join(_folder(downloads), name)}."
        ) from error
    finally:
        socket.setdefaulttimeout(before)
    return dict(state)


def _read_weights(weights: str, downloads: str | None) -> dict[str, torch.Tensor]:
    if weights == "imagenet":
        return imagenet_weights(downloads)
    path = Path(weights)
    if not path.is_file():
        raise InputError(
            f"`weights: {weights}` is not a file (looked for {path.absolute()}). Expected `auto`, `none`, `imagenet`, "
            "or a .safetensors or .pth file."
        )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch's own message on a refused pickle advises to load it unsafely.
        refused = isinstance(error, pickle.UnpicklingError)
        reason = "it is damaged or holds more than tensors" if refused else f"{type(error).__name__}: {error}"
        raise InputError(
            f"`weights: {weights}` cannot be read: {reason}. Expected a .safetensors file, "
            "or a .pth file with nothing but a state dict."
        ) from error


def _folder(downloads: str | None) -> str:
    return downloads or os.path.join(torch.hub.get_dir(), "checkpoints")


def _load_backbone(model: ResNet, state: dict[str, torch.Tensor], weights: str) -> None:
    try:
        backbone = {key: value for key, value in state.items() if not key.startswith("fc.")}
        outcome = model.load_state_dict(backbone, strict=False)
    except (RuntimeError, AttributeError, TypeError) as error:
        raise InputError(f"`weights: {weights}` do not fit a ResNet-34: {error}") from error
    if missing := [key for key in (*outcome.missing_keys, *outcome.unexpected_keys) if not key.startswith("fc.")]:
        raise InputError(
            f"`weights: {weights}` do not fit a ResNet-34: {len(missing)} keys differ, such as {missing[0]!r}. "
            "Expected the state dict of torchvision's resnet34."
        )
