"""Example images for users of a trained model."""

import numpy as np
from numpy.typing import NDArray

from lance_pipeline.loader.image_loader import ImageLoader
from lance_pipeline.storage.lance_split import LanceSplit
from lance_pipeline.training.weights import ModelCard


def example_images(split: LanceSplit, card: ModelCard, count: int = 2) -> NDArray[np.float32]:
    """The split's first images, RGB from 0 to 255, not normalised: float32 (count, 3, image_size, image_size)."""
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
