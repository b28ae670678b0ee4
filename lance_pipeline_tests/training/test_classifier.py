"""The network with all that goes before and after it."""

import torch

from lance_pipeline.training.classifier import Classifier, example_images
from lance_pipeline.training.model import build_resnet34
from lance_pipeline.training.weights import ModelCard

CARD = ModelCard(
    stem="small", classes=["cat", "dog"], image_size=16, fit="crop", mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4)
)


def test_examples_are_what_the_classifier_takes(splits):
    examples = example_images(splits["val"], CARD)
    assert examples.shape == (2, 3, 16, 16)
    assert 1 < examples.max() <= 255
    network = build_resnet34(2, "small").eval()
    with torch.inference_mode():
        probabilities = Classifier(network, CARD).eval()(torch.from_numpy(examples))
    assert torch.allclose(probabilities.sum(dim=1), torch.ones(2))
