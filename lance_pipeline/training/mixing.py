"""Transforms of whole training batches: RandAugment, MixUp and CutMix."""

import torch
from torchvision.transforms import v2

from lance_pipeline.loader.augmentation import normalized
from lance_pipeline.training.recipe import Recipe, Triple


class BatchTransform:
    """torchvision's batch transforms, which draw from torch's own generator.

    Args:
        recipe: selects the transforms and their strength.
        classes: the number of classes.
        normalization: mean and std of each channel; needed for RandAugment, which works on uint8 images.
    """

    def __init__(self, recipe: Recipe, classes: int, normalization: tuple[Triple, Triple]) -> None:
        self._normalization = normalization
        self._one = v2.RandAugment(magnitude=recipe.randaugment) if recipe.randaugment else None
        mixers: list[v2.Transform] = []
        if recipe.mixup:
            mixers.append(v2.MixUp(alpha=recipe.mixup, num_classes=classes))
        if recipe.cutmix:
            mixers.append(v2.CutMix(alpha=recipe.cutmix, num_classes=classes))
        self._mix = v2.RandomChoice(mixers) if mixers else None

    @staticmethod
    def takes_bytes(recipe: Recipe) -> bool:
        """Whether images must be passed as uint8, not normalised."""
        return recipe.randaugment > 0

    def __call__(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Transform a batch into the model's input.

        Args:
            images: (n, 3, h, w), uint8 with RandAugment, else normalised float32.
            labels: int64 (n,).

        Returns:
            normalised float32 images, and labels: int64 (n,) or, if mixed, float32 (n, classes).
        """
        if self._one is not None:
            images = normalized(torch.stack([self._one(image) for image in images]), *self._normalization)
            images = images.contiguous(memory_format=torch.channels_last)
        if self._mix is not None:
            images, labels = self._mix(images, labels)
        return images, labels
