"""From two Lance datasets and a recipe to a trained ResNet-34."""

from collections.abc import Callable

import torch

from lance_pipeline.errors import InputError
from lance_pipeline.images.augmentation import Augment
from lance_pipeline.images.channels import ChannelSums
from lance_pipeline.images.loader import ImageLoader
from lance_pipeline.images.loading.cache import CachePlace
from lance_pipeline.images.split import LanceSplit
from lance_pipeline.training.checkpoint import ModelCard
from lance_pipeline.training.device import Device
from lance_pipeline.training.loop import Epoch, Step, Trained, train
from lance_pipeline.training.model import build_resnet34
from lance_pipeline.training.recipe import Recipe


def fit_resnet34(
    train_split: LanceSplit,
    val_split: LanceSplit,
    recipe: Recipe,
    device: Device,
    *,
    image_size: int,
    downloads: str | None = None,
    cache: CachePlace | None = None,
    tell: Callable[[str], None] = lambda text: None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    on_step: Callable[[Step], None] = lambda step: None,
) -> tuple[Trained, ModelCard]:
    """Train on one version of each split; returns the best epoch's weights and their card.

    Args:
        train_split: to learn from; it also settles the classes and the normalisation.
        val_split: to choose the best epoch by.
        recipe: all settings.
        device: where to train, in which precision.
        image_size: height and width at which the model sees the images, in pixels.
        downloads: the folder that keeps downloaded weights; torch's cache when None.
        cache: where decoded images are kept; None decodes them anew in each epoch.
        tell: called with what is worth a line in a log.
        on_epoch: called after each epoch's validation.
        on_step: called after each batch.

    Raises:
        InputError: weights cannot be had, or the splits do not go together.
    """
    torch.manual_seed(recipe.seed)
    classes = train_split.classes
    if "channels" not in train_split.facts:
        raise InputError(f"{train_split.uri} was not made by an ingest, so its mean and std are unknown. Ingest it.")
    sums = ChannelSums.model_validate(train_split.facts["channels"])
    mean, std = recipe.normalization(sums.mean(), sums.std())
    card = ModelCard(stem=recipe.stem, classes=classes, image_size=image_size, fit=recipe.fit, mean=mean, std=std)
    model = build_resnet34(len(classes), recipe.stem, recipe.weights, downloads)
    train_loader, val_loader = (
        ImageLoader(
            split.uri,
            version=split.version,
            batch_size=recipe.batch_size,
            image_size=image_size,
            training=training,
            seed=recipe.seed,
            augment=Augment(flip=recipe.flip, padding=recipe.padding_for(image_size)),
            normalize=(mean, std),
            fit=recipe.fit,
            cache=cache,
            classes=classes,
            device=device.torch_device,
        )
        for split, training in ((train_split, True), (val_split, False))
    )
    for name, loader in (("train", train_loader), ("val", val_loader)):
        tell(f"{name}: {loader.rows} images, {loader.mode}")
    trained = train(
        model,
        train_loader,
        val_loader,
        recipe,
        device,
        on_epoch=on_epoch,
        on_step=on_step,
    )
    return trained, card
