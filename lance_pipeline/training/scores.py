"""Loss, accuracy and F1 of a model on a split, for validation and evaluation."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import f1_score
from torch import nn

from lance_pipeline.loader.devices import Batch
from lance_pipeline.training.device import Device


@dataclass(frozen=True)
class Scores:
    """The scores of a model on a split.

    Attributes:
        loss: mean cross-entropy, in nats.
        accuracy: the share of images whose most probable class is right.
        macro_f1: the unweighted mean F1 of the classes present in the split.
    """

    loss: float
    accuracy: float
    macro_f1: float


class Output(NamedTuple):
    """The output of a model for a batch, on the device.

    Attributes:
        logits: float32 (n, classes).
        labels: int64 (n,).
        loss: float32 (), the sum of the images' cross-entropies, in nats.
    """

    logits: torch.Tensor
    labels: torch.Tensor
    loss: torch.Tensor


@torch.inference_mode()
def outputs(
    model: nn.Module, batches: Iterable[Batch], device: Device, on_batch: Callable[[], None] = lambda: None
) -> Iterator[Output]:
    """Run a model over batches.

    Args:
        model: maps images (n, 3, h, w) to logits (n, classes); it is left in evaluation mode.
        batches: normalised images (n, 3, h, w) and labels (n,), on the device.
        device: sets the precision.
        on_batch: called before each batch.
    """
    model.eval()
    for images, labels in batches:
        on_batch()
        with device.autocast():
            logits = model(images).float()
        yield Output(logits, labels, nn.functional.cross_entropy(logits, labels, reduction="sum"))


def evaluate(
    model: nn.Module, batches: Iterable[Batch], device: Device, on_batch: Callable[[], None] = lambda: None
) -> Scores:
    """The scores of a model on some images; the arguments are those of :func:`outputs`."""
    losses, predicted, actual = [], [], []
    for output in outputs(model, batches, device, on_batch):
        # Kept on the device until the end, because reading one would wait for it.
        losses.append(output.loss)
        predicted.append(output.logits.argmax(1))
        actual.append(output.labels)
    return scores(torch.cat(actual).cpu().numpy(), torch.cat(predicted).cpu().numpy(), losses)


def scores(labels: NDArray[np.int64], predicted: NDArray[np.int64], losses: list[torch.Tensor]) -> Scores:
    """The scores of predictions.

    Args:
        labels: int64 (n,), the true class indices.
        predicted: int64 (n,), the most probable class indices.
        losses: for each batch, the sum of its images' losses.
    """
    return Scores(
        math.fsum(torch.stack(losses).tolist()) / len(labels),
        int((labels == predicted).sum()) / len(labels),
        # Only the classes present in the split: no denominator is zero.
        float(f1_score(labels, predicted, labels=np.unique(labels).tolist(), average="macro")),
    )
