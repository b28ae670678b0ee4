"""What a training begins with: its recipe, and the weights that the recipe leaves open."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from lance_pipeline.errors import InputError
from lance_pipeline.storage.lance_split import LanceSplit
from lance_pipeline.training.model import imagenet_weights
from lance_pipeline.training.networks import DEFAULT_NETWORK
from lance_pipeline.training.recipe import Recipe

_LEAST_SIDE = 64
"""Smaller images are unlike the photos of some 500 pixels, seen at 224, that ImageNet's weights have learned from."""


class Start(NamedTuple):
    """How a training begins.

    Attributes:
        recipe: with nothing left open but the normalisation.
        reason: why these weights, for people.
        second_best: whether trained weights were wanted, and could not be downloaded.
    """

    recipe: Recipe
    reason: str
    second_best: bool = False


def settled_start(
    recipe: Recipe,
    train_split: LanceSplit,
    *,
    network: str = DEFAULT_NETWORK,
    image_size: int,
    device: str,
    downloads: str | None = None,
    resumable: Callable[[Recipe], bool] = lambda recipe: False,
) -> Start:
    """The recipe as it trains on a split, with the weights of ``weights: auto`` chosen.

    Args:
        recipe: as it was given.
        train_split: to learn from.
        network: torchvision's name of the network that trains.
        image_size: height and width at which the model sees the images, in pixels.
        device: torch's name for its type, such as ``cuda``.
        downloads: the folder that keeps downloaded weights; torch's cache when None.
        resumable: whether an interrupted training began with a recipe: that is taken, whatever can be had now.
    """

    def with_weights(weights: str) -> Recipe:
        return recipe.model_copy(update={"weights": weights}).resolved(device, image_size, len(train_split))

    if recipe.weights != "auto":
        return Start(with_weights(recipe.weights), f"{recipe.weights}, as configured")
    side = _usual_side(train_split)
    if min(side, image_size) < _LEAST_SIDE:
        seen = f"images of {side} pixels" if side < _LEAST_SIDE else f"image_size {image_size}"
        return Start(with_weights("none"), f"random: {seen} is too small for ImageNet's ({_LEAST_SIDE} at least)")
    for weights in ("imagenet", "none"):
        if resumable(chosen := with_weights(weights)):
            return Start(chosen, f"{weights}, as the interrupted training")
    try:
        imagenet_weights(network, downloads)
    except InputError as error:
        return Start(with_weights("none"), f"random: {error}", second_best=True)
    return Start(with_weights("imagenet"), f"imagenet: images of {side} pixels, seen at {image_size}")


def _usual_side(split: LanceSplit) -> int:
    """The median of the images' shorter sides, in pixels; 0 where another tool wrote the split and nobody knows."""
    if not {"width", "height"} <= set(split.dataset.schema.names):
        return 0
    sizes = split.to_table(["width", "height"])
    return int(np.median(np.minimum(sizes["width"].to_numpy(), sizes["height"].to_numpy()))) if len(sizes) else 0
