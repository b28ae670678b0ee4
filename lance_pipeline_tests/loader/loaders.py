"""Loaders of the test dataset, and their batches."""

import torch

from lance_pipeline.images import ImageLoader

COUNTS = {"cat": 40, "dog": 37}
ROWS = sum(COUNTS.values())
NORMALIZE = ((0.5, 0.4, 0.3), (0.2, 0.3, 0.25))


def make(uri: str, **options) -> ImageLoader:
    defaults = {"batch_size": 8, "image_size": 16, "training": True, "normalize": NORMALIZE, "cache": None}
    return ImageLoader(uri, **(defaults | options))


def batches(loader) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(images.clone(), labels) for images, labels in loader]


def assert_same(one, other) -> None:
    assert len(one) == len(other)
    for (images, labels), (others, other_labels) in zip(one, other, strict=True):
        assert torch.equal(images, others)
        assert torch.equal(labels, other_labels)
