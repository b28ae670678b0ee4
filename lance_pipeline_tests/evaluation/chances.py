"""Predictions with given probabilities."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike

from lance_pipeline.evaluation.prediction import Predictions
from lance_pipeline.training.scores import scores


def predictions_of(labels: Sequence[int], chances: ArrayLike) -> Predictions:
    """Predictions of a model with these class probabilities; 0 becomes the smallest positive value."""
    probabilities, true = np.asarray(chances, np.float32), np.array(labels)
    of_label = torch.tensor(probabilities[np.arange(len(true)), true])
    loss = -of_label.clamp(torch.finfo(torch.float32).tiny).log().sum()
    return Predictions(true, probabilities, scores(true, probabilities.argmax(axis=1), [loss]))
