"""Training a network from two Lance datasets and a recipe."""

import math
from dataclasses import replace
from itertools import islice

import torch
from torch import nn

from lance_pipeline.loader.augmentation import Augment
from lance_pipeline.loader.cache_place import CachePlace
from lance_pipeline.loader.image_loader import ImageLoader
from lance_pipeline.storage.lance_split import LanceSplit
from lance_pipeline.training.callbacks import NO_CALLBACKS, TrainingCallbacks
from lance_pipeline.training.checkpoint import Checkpoints
from lance_pipeline.training.device import Device, own_random_numbers
from lance_pipeline.training.inputs import TrainingInputs
from lance_pipeline.training.loop import Trained, train
from lance_pipeline.training.mixing import BatchTransform
from lance_pipeline.training.model import build_network
from lance_pipeline.training.recipe import Recipe
from lance_pipeline.training.scores import evaluate
from lance_pipeline.training.start import settled_start
from lance_pipeline.training.weights import ModelCard

# Enough images to detect memorization, at a cost of seconds.
_SAMPLED_IMAGES = 500


@own_random_numbers()
def fit_network(
    inputs: TrainingInputs,
    device: Device,
    *,
    downloads: str | None = None,
    cache: CachePlace | None = None,
    checkpoints: Checkpoints | None = None,
    callbacks: TrainingCallbacks = NO_CALLBACKS,
) -> tuple[Trained, ModelCard]:
    """Train on one version of each split; returns the best epoch's weights and their card.

    Args:
        inputs: what to train; ``auto`` values of its recipe are resolved here.
        device: the device and precision.
        downloads: the folder of downloaded weights; torch's cache when None.
        cache: where to cache decoded images; None decodes them again in each epoch.
        checkpoints: the state to resume from, and where to save it; None saves nothing.
        callbacks: callbacks for progress and cancellation.

    Raises:
        InputError: weights are unavailable, the splits do not match, or training cannot continue.
        Stopped: ``callbacks.stop`` gave a reason; the state is saved.
    """
    start = settled_start(inputs, device.torch_device.type, downloads)
    if inputs.recipe.weights == "auto":
        callbacks.log_line(f"weights: {start.reason}")
    inputs = replace(inputs, recipe=start.recipe)
    recipe, card = inputs.recipe, inputs.card()
    torch.manual_seed(recipe.seed)
    # Skip the download when resuming.
    resumed = checkpoints is not None and checkpoints.state is not None
    weights = "none" if resumed else recipe.weights
    model = build_network(inputs.network, len(card.classes), recipe.stem, weights, downloads)
    train_loader, val_loader = (
        _loader(split, card, recipe, device, cache, training=training)
        for split, training in ((inputs.train, True), (inputs.val, False))
    )
    for name, loader in (("train", train_loader), ("val", val_loader)):
        callbacks.log_line(f"{name}: {loader.rows} images, {loader.mode}")
    transform = BatchTransform(recipe, len(card.classes), (card.mean, card.std))
    trained = train(
        model,
        train_loader,
        val_loader,
        recipe,
        device,
        transform=transform,
        checkpoints=checkpoints,
        callbacks=callbacks,
    )
    model.load_state_dict(trained.state)
    seen = _loader(inputs.train, card, recipe, device, None, training=False)
    saved = f"after epoch {len(trained.history)} of {recipe.epochs}" if checkpoints is not None else None
    return replace(trained, train_accuracy=_accuracy(model, seen, device, callbacks, saved)), card


def _accuracy(
    model: nn.Module, loader: ImageLoader, device: Device, callbacks: TrainingCallbacks, saved: str | None
) -> float:
    """Accuracy on the loader's first images, a fair sample because images are stored in random order."""

    def stop_if_asked() -> None:
        if reason := callbacks.stop():
            raise callbacks.stopped(reason, saved)

    batches = islice(loader, math.ceil(_SAMPLED_IMAGES / loader.batch_size))
    return evaluate(model, batches, device, stop_if_asked).accuracy


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
        image_column=split.image_column,
        label_column=split.label_column,
    )
