"""The start of a training: resolving its recipe and choosing its weights."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from lance_pipeline.errors import ExplainedError
from lance_pipeline.storage.lance_split import LanceSplit
from lance_pipeline.training.inputs import TrainingInputs
from lance_pipeline.training.model import imagenet_weights
from lance_pipeline.training.recipe import Recipe

_LEAST_SIDE = 64
"""Least side for ImageNet weights, in pixels. Smaller images differ too much from ImageNet's photos of about 500
pixels, seen at 224."""


class Start(NamedTuple):
    """How a training starts.

    Attributes:
        recipe: fully resolved except for the normalisation.
        reason: why these weights were chosen, for messages.
        second_best: whether trained weights were wanted but could not be downloaded.
    """

    recipe: Recipe
    reason: str
    second_best: bool = False


def settled_start(
    inputs: TrainingInputs,
    device: str,
    downloads: str | None = None,
    resumable: Callable[[Recipe], bool] = lambda recipe: False,
) -> Start:
    """The recipe resolved for a split, with weights chosen for ``weights: auto``.

    Args:
        inputs: what to train, with the recipe as configured.
        device: torch's device type, such as ``cuda``.
        downloads: the folder of downloaded weights; torch's cache when None.
        resumable: whether an interrupted training started with a recipe; that recipe is used regardless of which
            weights are available now.
    """
    recipe, image_size = inputs.recipe, inputs.image_size

    def with_weights(weights: str) -> Recipe:
        return recipe.model_copy(update={"weights": weights}).resolved(device, image_size, len(inputs.train))

    if recipe.weights != "auto":
        return Start(with_weights(recipe.weights), f"{recipe.weights}, as configured")
    side = _usual_side(inputs.train)
    if min(side, image_size) < _LEAST_SIDE:
        seen = f"images of {side} pixels" if side < _LEAST_SIDE else f"image_size {image_size}"
        return Start(with_weights("none"), f"random: {seen} is too small for ImageNet's ({_LEAST_SIDE} at least)")
    for weights in ("imagenet", "none"):
        if resumable(chosen := with_weights(weights)):
            return Start(chosen, f"{weights}, as the interrupted training")
    try:
        imagenet_weights(inputs.network, downloads)
    except ExplainedError as error:
        return Start(with_weights("none"), f"random: {error}", second_best=True)
    return Start(with_weights("imagenet"), f"imagenet: images of {side} pixels, seen at {image_size}")


def _usual_side(split: LanceSplit) -> int:
    """The median of the images' shorter sides, in pixels; 0 if another tool wrote the split without sizes."""
    if not {"width", "height"} <= set(split.dataset.schema.names):
        return 0
    sizes = split.to_table(["width", "height"])
    return int(np.median(np.minimum(sizes["width"].to_numpy(), sizes["height"].to_numpy()))) if len(sizes) else 0
