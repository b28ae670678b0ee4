"""Judging a model by its own figures, and advice on what to try."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from lance_pipeline.training.recipe import Recipe

GAP = 0.1
"""The gap between training and validation accuracy beyond which a model has memorized its training images."""
_RISE = 0.01
_FALL = 0.02
# The one-sided 95 % quantile, and two standard errors.
_Z, _TWO = 1.645, 2.0
_PHOTO_SIZE = 64


class Advice(NamedTuple):
    """The outcome of a check of a model.

    Attributes:
        passed: whether the check passed.
        figures: the figures behind the outcome; shares are from 0 to 1.
        text: one or two sentences on the problem and what to try; "" if the check passed.
    """

    passed: bool
    figures: dict[str, float | int]
    text: str = ""


def beats_guessing(accuracy: float, images: int, commonest: float, recipe: Recipe, image_size: int) -> Advice:
    """Whether a model does significantly better than always naming the most common class.

    The bound is the normal approximation of the binomial distribution, one-sided at 95 %.

    Args:
        accuracy: the accuracy of the model.
        images: the number of images it was measured on.
        commonest: the most common class's share of them.
        recipe: the recipe of the model.
        image_size: height and width of the images that it sees, in pixels.
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
    """Whether the validation accuracy had stopped rising when training ended.

    Compares the mean of the last tenth of the epochs, at least one, with that of the tenth before. The accuracy still
    rises if it is more than a percentage point higher, and the last epoch is the best of all.

    Args:
        accuracies: the accuracy on the val split after each epoch.
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
    """Whether a model does about as well on new images as on its training images.

    Args:
        train_accuracy: the accuracy on training images without augmentation.
        val_accuracy: the accuracy on the val split.
        recipe: the recipe of the model.
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
    """Whether a model is about as good as the previous one.

    It is not if its accuracy is lower by more than two points and more than two pooled standard errors.

    Args:
        accuracy: the accuracy of the model.
        images: the number of images it was measured on.
        before: the accuracy of the previous model.
        images_before: the number of images that one was measured on.
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
