import io

import numpy as np
import pytest
from PIL import Image

from lance_pipeline.evaluation.metrics import classification_metrics
from lance_pipeline.evaluation.plots import confusion_picture
from lance_pipeline_tests.evaluation.chances import predictions_of


def picture(labels, predicted, classes: list[str]) -> np.ndarray:
    predictions = predictions_of(labels, np.eye(len(classes))[np.array(predicted)])
    data = confusion_picture(classification_metrics(predictions, classes), "test")
    assert len(data) < 100_000
    image = Image.open(io.BytesIO(data))
    assert image.format == "PNG"
    return np.asarray(image.convert("RGB")).astype(int)


def blue_pixels(image: np.ndarray) -> int:
    """Pixels of the dark end of the colour map, which stands for a share near 1."""
    return int(((image[..., 2] - image[..., 0] > 60) & (image[..., 0] < 60)).sum())


@pytest.mark.parametrize("classes", [2, 30, 31])
def test_any_number_of_classes(classes):
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(0, classes, (2, 40 * classes))
    image = picture(labels, predicted, [f"class {number}" for number in range(classes)])
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 20


def test_every_right_answer_colours_its_diagonal():
    labels = [0] * 10 + [1] * 10
    right = picture(labels, labels, ["cat", "dog"])
    unsure = picture(labels, [0, 1] * 10, ["cat", "dog"])
    assert blue_pixels(right) > blue_pixels(unsure) + 5000


def test_the_share_and_not_the_number_sets_the_colour():
    rare = picture([0] * 100 + [1], [0] * 100 + [1], ["cat", "dog"])
    even = picture([0] * 100 + [1] * 100, [0] * 100 + [1] * 100, ["cat", "dog"])
    assert abs(blue_pixels(rare) - blue_pixels(even)) < 500


def test_a_class_without_images():
    assert blue_pixels(picture([0, 1], [0, 1], ["cat", "dog", "fox"])) > 1000


def test_names_are_not_taken_for_formulas():
    assert blue_pixels(picture([0, 1], [0, 1], ["a$_x_$", "$\\foo$"])) > 1000
