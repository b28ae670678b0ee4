"""Training a network from two Lance datasets and a recipe."""

import hashlib
import math
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lance_pipeline.errors import InputError
from lance_pipeline.imaging.channels import ChannelSums
from lance_pipeline.loader.augmentation import Augment
from lance_pipeline.loader.cache_place import CachePlace
from lance_pipeline.loader.image_loader import ImageLoader
from lance_pipeline.storage.lance_split import LanceSplit
from lance_pipeline.training.callbacks import NO_CALLBACKS, TrainingCallbacks
from lance_pipeline.training.checkpoint import Checkpoints
from lance_pipeline.training.device import Device
from lance_pipeline.training.loop import Trained, train
from lance_pipeline.training.mixing import BatchTransform
from lance_pipeline.training.model import build_network
from lance_pipeline.training.networks import DEFAULT_NETWORK, known_network
from lance_pipeline.training.recipe import CODE_VERSION, Recipe
from lance_pipeline.training.scores import evaluate
from lance_pipeline.training.start import settled_start
from lance_pipeline.training.weights import ModelCard

# Enough images to detect memorization, at a cost of seconds.
_SAMPLED_IMAGES = 500


def fit_network(
    train_split: LanceSplit,
    val_split: LanceSplit,
    recipe: Recipe,
    device: Device,
    *,
    network: str = DEFAULT_NETWORK,
    image_size: int,
    downloads: str | None = None,
    cache: CachePlace | None = None,
    checkpoints: Checkpoints | None = None,
    watch: TrainingCallbacks = NO_CALLBACKS,
) -> tuple[Trained, ModelCard]:
    """Train on one version of each split; returns the best epoch's weights and their card.

    Args:
        train_split: the split to learn from; it also determines the classes and the normalisation.
        val_split: the split that selects the best epoch.
        recipe: all settings; ``auto`` values are resolved here.
        device: the device and precision.
        network: torchvision's name of the network.
        image_size: height and width of the images that the model sees, in pixels.
        downloads: the folder of downloaded weights; torch's cache when None.
        cache: where to cache decoded images; None decodes them again in each epoch.
        checkpoints: the state to resume from, and where to save it; None saves nothing.
        watch: callbacks for progress and cancellation.

    Raises:
        InputError: weights are unavailable, the splits do not match, or training cannot continue.
        Stopped: ``watch.stop`` gave a reason; the state is saved.
    """
    start = settled_start(
        recipe,
        train_split,
        network=network,
        image_size=image_size,
        device=device.torch_device.type,
        downloads=downloads,
    )
    if recipe.weights == "auto":
        watch.tell(f"weights: {start.reason}")
    recipe = start.recipe
    torch.manual_seed(recipe.seed)
    card = model_card(train_split, recipe, image_size, network)
    # Skip the download when resuming.
    resumed = checkpoints is not None and checkpoints.state is not None
    weights = "none" if resumed else recipe.weights
    model = build_network(network, len(card.classes), recipe.stem, weights, downloads)
    train_loader, val_loader = (
        _loader(split, card, recipe, device, cache, training=training)
        for split, training in ((train_split, True), (val_split, False))
    )
    for name, loader in (("train", train_loader), ("val", val_loader)):
        watch.tell(f"{name}: {loader.rows} images, {loader.mode}")
    transform = BatchTransform(recipe, len(card.classes), (card.mean, card.std))
    trained = train(
        model, train_loader, val_loader, recipe, device, transform=transform, checkpoints=checkpoints, watch=watch
    )
    model.load_state_dict(trained.state)
    seen = _loader(train_split, card, recipe, device, None, training=False)
    saved = f"after epoch {len(trained.history)} of {recipe.epochs}" if checkpoints is not None else None
    return replace(trained, train_accuracy=_accuracy(model, seen, device, watch, saved)), card


def _accuracy(
    model: nn.Module, loader: ImageLoader, device: Device, watch: TrainingCallbacks, saved: str | None
) -> float:
    """Accuracy on the loader's first images, a fair sample because images are stored in random order."""

    def stop_if_asked() -> None:
        if reason := watch.stop():
            raise watch.stopped(reason, saved)

    batches = islice(loader, math.ceil(_SAMPLED_IMAGES / loader.batch_size))
    return evaluate(model, batches, device, stop_if_asked).accuracy


def training_identity(
    train_split: LanceSplit, val_split: LanceSplit, recipe: Recipe, image_size: int, network: str = DEFAULT_NETWORK
) -> dict[str, Any]:
    """Everything that determines a training's result: two trainings with the same identity learn the same."""
    weights = Path(recipe.weights)
    # The default is left out, so that trainings from before the network could be chosen keep their identity.
    chosen = {} if network == DEFAULT_NETWORK else {"model": network}
    return chosen | {
        "code": CODE_VERSION,
        "train": _content(train_split),
        "val": _content(val_split),
        "recipe": recipe.identity(),
        "image_size": image_size,
        "weights": hashlib.sha256(weights.read_bytes()).hexdigest() if weights.is_file() else recipe.weights,
    }


def _content(split: LanceSplit) -> dict[str, Any]:
    return {"uri": split.uri, "version": split.version, "fingerprint": split.facts.get("fingerprint")}


def model_card(split: LanceSplit, recipe: Recipe, image_size: int, network: str = DEFAULT_NETWORK) -> ModelCard:
    """The card of a model trained on a split.

    Raises:
        InputError: the split was not made by an ingest, or the network does not accept images of this size.
    """
    known = known_network(network)
    if wrong := known.wrong_size(image_size):
        raise InputError(f"{wrong}.")
    if "channels" not in split.facts:
        raise InputError(f"{split.uri} was not made by an ingest, so its mean and std are unknown. Ingest it.")
    sums = ChannelSums.model_validate(split.facts["channels"])
    mean, std = recipe.normalization(sums.mean(), sums.std(), pretrained=(known.mean, known.std))
    return ModelCard(
        architecture=network,
        stem=recipe.stem,
        classes=split.classes,
        image_size=image_size,
        fit=recipe.fit,
        mean=mean,
        std=std,
        transparency=split.transparency,
    )


def _loader(
    split: LanceSplit, card: ModelCard, recipe: Recipe, device: Device, cache: CachePlace | None, *, training: bool
) -> ImageLoader:
    as_bytes = training and BatchTransform.takes_bytes(recipe)
    return ImageLoader(
        split.uri,
        version=split.version,
        batch_size=recipe.images_per_batch,
        image_size=card.image_size,
        training=training,
        seed=recipe.seed,
        augment=Augment(recipe.flip, recipe.padding_for(card.image_size), recipe.resized_crop),
        normalize=None if as_bytes else (card.mean, card.std),
        fit=recipe.fit,
        cache=cache,
        cache_size=recipe.crop_from if training else None,
        classes=card.classes,
        device=device.torch_device,
        transparency=card.transparency,
    )
