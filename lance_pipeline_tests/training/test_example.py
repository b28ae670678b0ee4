"""Example images for users of a trained model."""

from lance_pipeline.training.example import example_images
from lance_pipeline.training.weights import ModelCard

CARD = ModelCard(
    stem="small", classes=["cat", "dog"], image_size=16, fit="crop", mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4)
)


def test_examples_are_pixels_of_the_models_size(splits):
    examples = example_images(splits["val"], CARD)
    assert examples.shape == (2, 3, 16, 16)
    assert 1 < examples.max() <= 255
