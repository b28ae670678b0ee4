"""Validation within a training."""

import math
from collections.abc import Callable, Iterable

import torch
from sklearn.metrics import f1_score
from torch import nn

from lance_pipeline.loader.devices import Batch
from lance_pipeline.training.device import Device
from lance_pipeline.training.history import Validation


@torch.inference_mode()
def evaluate(
    model: nn.Module, batches: Iterable[Batch], device: Device, on_batch: Callable[[], None] = lambda: None
) -> Validation:
    """How the model does on some images.

    Args:
        model: takes images (n, 3, h, w), gives logits (n, classes); it is left in evaluation mode.
        batches: normalised images (n, 3, h, w) and labels (n,), on the device.
        device: in which precision.
        on_batch: called before each batch.
    """
    model.eval()
    losses, predicted, actual = [], [], []
    for images, labels in batches:
        on_batch()
        with device.autocast():
            logits = model(images).float()
        # On the device until all are there: to look at one would wait for it.
        losses.append(nn.functional.cross_entropy(logits, labels, reduction="sum"))
        predicted.append(logits.argmax(1))
        actual.append(labels)
    given, true = torch.cat(predicted).cpu(), torch.cat(actual).cpu()
    return Validation(
        math.fsum(torch.stack(losses).tolist()) / len(true),
        int((given == true).sum()) / len(true),
        # As in the evaluation, over the classes that the split has: no denominator is zero.
        float(f1_score(true, given, labels=true.unique().tolist(), average="macro")),
    )
