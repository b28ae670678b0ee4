"""A trained network with all that goes before and after it."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lance_pipeline.images.loader import ImageLoader
from lance_pipeline.images.split import LanceSplit
from lance_pipeline.training.weights import ModelCard


class Classifier(nn.Module):
    """From images to probabilities, for whoever has the model alone.

    Args:
        network: takes normalised images, gives logits (n, classes).
        card: the network's.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, network: nn.Module, card: ModelCard) -> None:
        super().__init__()
        self.network = network
        for name, values in (("mean", card.mean), ("std", card.std)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Probabilities, float32 (n, classes) in the order of the card's classes.

        Args:
            images: RGB, float32 (n, 3, image_size, image_size), from 0 to 255.
        """
        return self.network((images / 255 - self.mean) / self.std).softmax(dim=1)


def example_images(split: LanceSplit, card: ModelCard, count: int = 2) -> NDArray[np.float32]:
    """The split's first images as a ``Classifier`` takes them: (count, 3, image_size, image_size)."""
    loader = ImageLoader(
        split.uri,
        version=split.version,
        batch_size=count,
        image_size=card.image_size,
        training=False,
        normalize=None,
        fit=card.fit,
        cache=None,
    )
    images, _ = next(iter(loader))
    return images.float().numpy()
