import math

import numpy as np
import pytest

from lance_pipeline.evaluation.metrics import ClassificationMetrics, classification_metrics
from lance_pipeline_tests.evaluation.chances import predictions_of

CLASSES = ["ant", "bee", "cow"]


@pytest.fixture
def metrics():
    """Metrics of five images, three correct; the class cow has none."""
    chances = [[0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.1, 0.8, 0.1], [0.3, 0.2, 0.5]]
    return classification_metrics(predictions_of([0, 0, 0, 1, 1], chances), CLASSES)


def test_totals_by_hand(metrics):
    assert metrics.images == 5
    assert metrics.accuracy == pytest.approx(3 / 5)
    assert metrics.top5_accuracy == 1.0
    assert metrics.loss == pytest.approx(-sum(map(math.log, (0.8, 0.6, 0.2, 0.8, 0.2))) / 5, rel=1e-6)
    # The mean over ant and bee only, as cow is not in the split.
    assert metrics.macro_f1 == pytest.approx((0.8 + 0.5) / 2)


def test_classes_by_hand(metrics):
    ant, bee, cow = metrics.per_class
    assert [one.label for one in metrics.per_class] == CLASSES
    assert (ant.precision, ant.recall, ant.f1, ant.support) == pytest.approx((1, 2 / 3, 0.8, 3))
    assert (bee.precision, bee.recall, bee.f1, bee.support) == pytest.approx((1 / 2, 1 / 2, 1 / 2, 2))
    assert (cow.precision, cow.recall, cow.f1, cow.support) == (0, 0, 0, 0)


def test_confusion_by_hand(metrics):
    assert metrics.confusion == [[2, 1, 0], [0, 1, 1], [0, 0, 0]]


def test_scalars_and_json(metrics):
    assert set(metrics.scalars()) == {"accuracy", "top5_accuracy", "macro_f1", "loss"}
    assert ClassificationMetrics.model_validate_json(metrics.model_dump_json()) == metrics


def test_top5_of_seven_classes():
    chances = np.array([[0.3, 0.2, 0.15, 0.12, 0.1, 0.08, 0.05]] * 4, np.float32)
    metrics = classification_metrics(predictions_of([0, 4, 5, 6], chances), list("abcdefg"))
    assert (metrics.accuracy, metrics.top5_accuracy) == (0.25, 0.5)


def test_one_image_of_one_class():
    metrics = classification_metrics(predictions_of([1], [[0.25, 0.75]]), ["a", "b"])
    assert (metrics.accuracy, metrics.macro_f1) == (1.0, 1.0)
    assert metrics.loss == pytest.approx(-math.log(0.75))
    assert metrics.confusion == [[0, 0], [0, 1]]


def test_a_probability_of_zero_gives_a_finite_loss():
    metrics = classification_metrics(predictions_of([0, 1], [[0, 1], [0, 1]]), ["a", "b"])
    assert metrics.accuracy == 0.5
    assert math.isfinite(metrics.loss)
    assert metrics.loss > 5
