"""Whether a model is any good, as far as its own figures tell, and what to try where it is not."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from lance_pipeline.training.recipe import Recipe

GAP = 0.1
"""A model that does so much better on images that it has learned from has learned them by heart."""
_RISE = 0.01
_FALL = 0.02
# One-sided, 95 %; and two standard errors.
_Z, _TWO = 1.645, 2.0
_PHOTO_SIZE = 64


class Advice(NamedTuple):
    """The answer to a question about a model.

    Attributes:
        passed: whether all is well.
        figures: that it was told by; shares are parts of 1.
        text: one or two sentences: what is the matter, and what to try; "" where all is well.
    """

    passed: bool
    figures: dict[str, float | int]
    text: str = ""


def beats_guessing(accuracy: float, images: int, commonest: float, recipe: Recipe, image_size: int) -> Advice:
    """Whether a model does better than naming the commonest class each time, beyond chance.

    The bound is the normal approximation of the binomial distribution, one-sided at 95 %.

    Args:
        accuracy: of the model.
        images: on so many images.
        commonest: the commonest class's share of them.
        recipe: by which the model was trained.
        image_size: at which it sees the images, in pixels.
    """
    needed = commonest + _Z * math.sqrt(commonest * (1 - commonest) / max(images, 1))
    figures = {"accuracy": accuracy, "commonest_class": commonest, "needed": min(needed, 1.0), "images": images}
    if accuracy > needed or accuracy == 1:
        return Advice(True, figures)
    steps = ["look at the contact sheet: does each image show what its label says?"]
    if image_size < _PHOTO_SIZE:
        steps.append(f"for photos, `image_size: 128` (now {image_size})")
    if not recipe.begins_trained:
        steps.append("for photos of 64 pixels or more, `recipe: {weights: imagenet}`")
    if isinstance(recipe.epochs, int):
        steps.append(f"`recipe: {{epochs: {2 * recipe.epochs}}}` (now {recipe.epochs})")
    steps.append(f"`recipe: {{learning_rate: {recipe.peak_learning_rate / 5:g}}}` (now {recipe.peak_learning_rate:g})")
    return Advice(
        False,
        figures,
        f"With {accuracy:.1%} of {images} images right, the model does no better than naming the commonest class each "
        f"time ({commonest:.1%}), beyond chance. Try, one after the other: {'; '.join(steps)}.",
    )


def has_converged(accuracies: Sequence[float]) -> Advice:
    """Whether the validation accuracy no longer rose when the training ended.

    The last tenth of the epochs, at least one, is compared with the tenth before; it still rises if it is a percentage
    point above, and its last epoch is the best of all.

    Args:
        accuracies: on the val split, of each epoch.
    """
    tenth = max(len(accuracies) // 10, 1)
    if len(accuracies) < 2 * tenth:
        return Advice(True, {"epochs": len(accuracies)})
    rise = (sum(accuracies[-tenth:]) - sum(accuracies[-2 * tenth : -tenth])) / tenth
    figures = {"epochs": len(accuracies), "rise": rise}
    if rise <= _RISE or accuracies[-1] < max(accuracies):
        return Advice(True, figures)
    return Advice(
        False,
        figures,
        f"The val accuracy still rose by {rise * 100:.1f} points when the training ended, after {len(accuracies)} "
        f"epochs. Try `recipe: {{epochs: {2 * len(accuracies)}}}`.",
    )


def generalizes(train_accuracy: float, val_accuracy: float, recipe: Recipe) -> Advice:
    """Whether a model does about as well on new images as on those that it has learned from.

    Args:
        train_accuracy: on images that it has learned from, as they are.
        val_accuracy: on the val split.
        recipe: by which it was trained.
    """
    gap = train_accuracy - val_accuracy
    figures = {"train_accuracy": train_accuracy, "val_accuracy": val_accuracy, "gap": gap}
    if gap <= GAP:
        return Advice(True, figures)
    steps = [
        text
        for missing, text in (
            (not recipe.begins_trained, "for photos, `weights: imagenet`"),
            (not recipe.resized_crop, "`resized_crop: [0.35, 1.0]`"),
            (not recipe.randaugment, "`randaugment: 9`"),
            (not recipe.mixup, "`mixup: 0.2`"),
        )
        if missing
    ]
    return Advice(
        False,
        figures,
        f"{train_accuracy:.1%} right on images that it has learned from, {val_accuracy:.1%} on the val split: the "
        f"model knows them by heart. More images help most{'; in the recipe, try ' if steps else ''}"
        f"{', '.join(steps)}.",
    )


def keeps_up(accuracy: float, images: int, before: float, images_before: int, *, same_split: bool) -> Advice:
    """Whether a model is not far below the one before it: beyond two points, and two pooled standard errors.

    Args:
        accuracy: of the model.
        images: on so many images.
        before: the accuracy of the model before.
        images_before: on so many images.
        same_split: whether both were measured on the same images.
    """
    counts = max(images, 1), max(images_before or images, 1)
    pooled = (accuracy * counts[0] + before * counts[1]) / sum(counts)
    error = math.sqrt(pooled * (1 - pooled) * (1 / counts[0] + 1 / counts[1]))
    figures = {"accuracy": accuracy, "accuracy_before": before, "change": accuracy - before}
    if before - accuracy <= max(_FALL, _TWO * error):
        return Advice(True, figures)
    measured = "" if same_split else " It was measured on other images, which may be harder."
    return Advice(
        False,
        figures,
        f"{accuracy:.1%} of the images are right, {before:.1%} were with the model before.{measured} Compare the two "
        "runs in MLflow: the versions of the data, and the recipe. The model before is still there.",
    )
