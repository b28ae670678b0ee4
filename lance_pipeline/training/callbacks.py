"""Callbacks for training progress and cancellation."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from lance_pipeline.training.history import Epoch


@dataclass(frozen=True)
class StepProgress:
    """How far the training is after a batch.

    ``loss`` is a scalar tensor that still lies on the device: reading it waits for the batch. ``seconds_left`` is None
    until the pace is known.
    """

    epoch: int
    epochs: int
    batch: int
    batches: int
    loss: torch.Tensor
    seconds_left: float | None


@dataclass(frozen=True)
class TrainingCallbacks:
    """Callbacks for training progress and cancellation.

    Attributes:
        on_epoch: called after each epoch's validation.
        on_step: called after each batch.
        tell: called with lines for a log.
        stop: asked after each batch; a reason ends the training once its state is saved.
        enough: asked before each epoch whether those that there are will do; then the training is over.
    """

    on_epoch: Callable[[Epoch], None] = lambda epoch: None
    on_step: Callable[[StepProgress], None] = lambda step: None
    tell: Callable[[str], None] = lambda text: None
    stop: Callable[[], str | None] = lambda: None
    enough: Callable[[list[Epoch]], bool] = lambda history: False


NO_CALLBACKS = TrainingCallbacks()
"""No callbacks."""
