"""torchvision's classification networks with a head for the given classes."""

import hashlib
import os
import pickle
import re
import shutil
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import torch
from safetensors.torch import load_file
from torch import nn
from torchvision.models import WeightsEnum, get_model, get_model_weights

from lance_pipeline.errors import ExplainedError, InputError, ServiceError
from lance_pipeline.storage.outages import is_outage
from lance_pipeline.storage.uris import Place, local_path
from lance_pipeline.storage.whole_files import whole_file
from lance_pipeline.training.networks import known_network

_SILENT_SECONDS = 60
# Responses of a server that has too much to do.
_BUSY = (408, 429)
_DIGITS = re.compile(r"-([0-9a-f]{8,})\.")
# In order of preference. SWAG's linear weights expect images of 224 pixels, and so does every network that has only
# those.
_OFFICIAL = ("IMAGENET1K_V2", "IMAGENET1K_V1", "IMAGENET1K_SWAG_LINEAR_V1")
# GoogLeNet and Inception v3 are trained without their auxiliary classifiers.
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")


def build_network(
    name: str, classes: int, stem: str = "imagenet", weights: str = "none", downloads: Place | None = None
) -> nn.Module:
    """A network that maps images (n, 3, h, w) to logits (n, classes).

    Args:
        name: torchvision's name of a classification network.
        classes: the number of classes.
        stem: ``imagenet`` as published, or ``small``: the first convolution without stride and no
            pooling, with the same weights. Only ResNets support ``small``.
        weights: ``none`` for random ones, ``imagenet`` for torchvision's official ones, or a file.
            The head is always new.
        downloads: the folder of downloaded weights; torch's cache when None.

    Raises:
        InputError: there is no such network, the stem or the weights do not fit it, or the weights are unavailable.
    """
    known = known_network(name)
    if wrong := known.wrong_stem(stem):
        raise InputError(f"{wrong}.")
    model: Any = get_model(name, weights=None, **_options(name))
    head = head_name(model)
    if weights != "none":
        _load_backbone(model, _read_weights(name, weights, downloads), head, name, weights)
    _replace(model, head, classes)
    if stem == "small":
        model.conv1.stride = (1, 1)
        model.maxpool = nn.MaxPool2d(1)
    return model


def head_name(model: nn.Module) -> str:
    """The name of the module that computes the logits: the last linear layer or convolution.

    Raises:
        ValueError: the model has neither.
    """
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    if not names:
        raise ValueError(f"{type(model).__name__} has no linear layer or convolution that could be its head")
    return names[-1]


def imagenet_weights(name: str, downloads: Place | None) -> dict[str, torch.Tensor]:
    """Torchvision's ImageNet weights for a network, downloaded once.

    Args:
        name: the network's name.
        downloads: the folder to keep them in; torch's cache when None.

    Raises:
        InputError: they cannot be written or read, or the server refuses them.
        ServiceError: they could not be downloaded.
    """
    official = official_weights(name)
    try:
        _download(official.url, _folder(downloads))
        state = official.get_state_dict(model_dir=_folder(downloads), progress=False, weights_only=True)
    except (OSError, HTTPException, RuntimeError, pickle.UnpicklingError) as error:
        raise _no_weights(official.url, _folder(downloads), error) from error
    return dict(state)


def _no_weights(url: str, folder: str, error: Exception) -> ExplainedError:
    """The error for ImageNet weights that could not be downloaded, written or read."""
    path = os.path.join(folder, os.path.basename(url))
    if os.path.exists(path):
        return InputError(f"cannot read the ImageNet weights {path}: {error}. Delete the file to download it again.")
    if not (isinstance(error, URLError | HTTPException | RuntimeError) or is_outage(error)):
        return InputError(f"cannot write the ImageNet weights {path}: {error}. Free space there, or get write access.")
    refused = isinstance(error, HTTPError) and error.code < 500 and error.code not in _BUSY
    return (InputError if refused else ServiceError)(
        f"could not download the ImageNet weights: {error}. Connect to the internet, or set `weights: none`, "
        f"or fetch {url} elsewhere and put it at {path}."
    )


def _download(url: str, folder: str) -> None:
    """Download a file of weights, unless it is there; torch's own download would wait forever for a silent server.

    Raises:
        OSError: it could not be downloaded or written.
        RuntimeError: what was received is not what its name says.
    """
    path = os.path.join(folder, os.path.basename(url))
    if os.path.exists(path):
        return
    with whole_file(path, shared=True) as work:
        with urlopen(url, timeout=_SILENT_SECONDS) as response, open(work, "wb") as file:  # noqa: S310 - of torchvision
            shutil.copyfileobj(response, file)
        # Names of weights end in the first digits of their SHA-256.
        if (found := _DIGITS.search(path)) and not _sha256(work).startswith(found[1]):
            raise RuntimeError(f"{url} was damaged on the way")


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def official_weights(name: str) -> WeightsEnum:
    """The weights for ``weights: imagenet``, even if a later torchvision changes its default."""
    known = get_model_weights(name).__members__
    return next(known[one] for one in _OFFICIAL if one in known)


def _options(name: str) -> dict[str, Any]:
    if name in ("googlenet", "inception_v3"):
        return {"aux_logits": False, "init_weights": True}
    # From random weights, residual branches that start at zero make a high learning rate stable
    # (Goyal et al., "Accurate, Large Minibatch SGD", 2017); loaded weights overwrite this.
    return {"zero_init_residual": True} if known_network(name).is_resnet else {}


def _replace(model: nn.Module, head: str, classes: int) -> None:
    """Replace the published head with a new one for this many classes."""
    before: Any = model.get_submodule(head)
    if isinstance(before, nn.Linear):
        model.set_submodule(head, nn.Linear(before.in_features, classes))
        return
    # SqueezeNet averages the pixels of its head. The ReLU after the head is dropped, because a class that starts below
    # zero would never be learned.
    model.set_submodule(head, nn.Conv2d(before.in_channels, classes, kernel_size=1))
    model.set_submodule("classifier.2", nn.Identity())


def _read_weights(name: str, weights: str, downloads: Place | None) -> dict[str, torch.Tensor]:
    if weights == "imagenet":
        return imagenet_weights(name, downloads)
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
        # For a refused pickle, torch's own message suggests loading it unsafely.
        refused = isinstance(error, pickle.UnpicklingError)
        reason = "it is damaged or contains more than tensors" if refused else f"{type(error).__name__}: {error}"
        raise InputError(
            f"`weights: {weights}` cannot be read: {reason}. Expected a .safetensors file, "
            "or a .pth file with nothing but a state dict."
        ) from error


def _folder(downloads: Place | None) -> str:
    return local_path(downloads or os.path.join(torch.hub.get_dir(), "checkpoints"), "the folder of downloads")


def _load_backbone(model: nn.Module, state: dict[str, torch.Tensor], head: str, name: str, weights: str) -> None:
    other = (f"{head}.", *_AUXILIARY)
    try:
        backbone = {key: value for key, value in state.items() if not key.startswith(other)}
        outcome = model.load_state_dict(backbone, strict=False)
    except (RuntimeError, AttributeError, TypeError) as error:
        raise InputError(f"`weights: {weights}` do not fit `model: {name}`: {error}") from error
    if wrong := [key for key in (*outcome.missing_keys, *outcome.unexpected_keys) if not key.startswith(other)]:
        raise InputError(
            f"`weights: {weights}` do not fit `model: {name}`: {len(wrong)} keys differ, such as {wrong[0]!r}. "
            f"Expected the state dict of torchvision's {name}."
        )
