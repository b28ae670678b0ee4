"""Classification metrics, computed by scikit-learn."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from lance_pipeline.evaluation.prediction import Predictions


class ClassMetrics(BaseModel):
    """Metrics of one class, from 0 to 1; ``support`` is its number of images."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int


class ClassificationMetrics(BaseModel):
    """The metrics of a split.

    Attributes:
        accuracy, macro_f1, loss: as in :class:`lance_pipeline.training.scores.Scores`.
        top5_accuracy: the share of images whose class is among the five most probable.
        per_class: in the order of the class indices; zero where a ratio has no denominator.
        confusion: images by true class (rows) and predicted class (columns).
        more: values of a project's own metrics, by name.
    """

    model_config = ConfigDict(extra="forbid")

    images: int
    accuracy: float
    top5_accuracy: float
    macro_f1: float
    loss: float
    per_class: list[ClassMetrics]
    confusion: list[list[int]]
    more: dict[str, float] = {}

    def scalars(self) -> dict[str, float]:
        """The metrics of the split as a whole."""
        return self.model_dump(include={"accuracy", "top5_accuracy", "macro_f1", "loss"}) | self.more


Metric = Callable[[Predictions, Sequence[str]], float]
"""Maps predictions and the labels, in the order of the class indices, to one figure for the whole split."""


def classification_metrics(
    predictions: Predictions, classes: list[str], more: Mapping[str, Metric] = MappingProxyType({})
) -> ClassificationMetrics:
    """All metrics of one split's predictions.

    Args:
        predictions: the predictions for the split.
        classes: the labels in the order of their class indices.
        more: additional metrics, by name.
    """
    labels, predicted = predictions.labels, predictions.predicted
    every_class = np.arange(len(classes))
    by_class: Any = precision_recall_fscore_support(
        labels,
        predicted,
        labels=every_class,
        zero_division=0,  # pyright: ignore[reportArgumentType] - the inferred type misses the numbers
    )
    precision, recall, f1, support = by_class
    of_label = predictions.probabilities[np.arange(len(labels)), labels]
    better = (predictions.probabilities > of_label[:, None]).sum(axis=1)
    return ClassificationMetrics(
        images=len(labels),
        **vars(predictions.scores),
        top5_accuracy=float(np.mean(better < 5)),
        per_class=[
            ClassMetrics(label=label, precision=p, recall=r, f1=f, support=s)
            for label, p, r, f, s in zip(classes, precision, recall, f1, support, strict=True)
        ],
        confusion=confusion_matrix(labels, predicted, labels=every_class).tolist(),
        more={name: float(metric(predictions, classes)) for name, metric in more.items()},
    )
