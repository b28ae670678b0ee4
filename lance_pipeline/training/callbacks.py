"""Callbacks for training progress and cancellation."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from lance_pipeline.errors import Stopped
from lance_pipeline.training.history import Epoch


@dataclass(frozen=True)
class StepProgress:
    """Training progress after a batch.

    ``loss`` is a scalar tensor on the device: reading it waits for the batch. ``seconds_left`` is None
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
        log_line: called with log lines.
        stop: called after each batch; if it returns a reason, training stops once its state is saved.
        enough: called before each epoch with the finished epochs; if it returns True, training ends.
    """

    on_epoch: Callable[[Epoch], None] = lambda epoch: None
    on_step: Callable[[StepProgress], None] = lambda step: None
    log_line: Callable[[str], None] = lambda text: None
    stop: Callable[[], str | None] = lambda: None
    enough: Callable[[list[Epoch]], bool] = lambda history: False

    def stopped(self, reason: str, saved: str | None) -> Stopped:
        """The error that ends a training, after a log line that says where it can resume.

        Args:
            reason: as ``stop`` returned it.
            saved: the place that was saved, such as ``after epoch 2 of 16``; None if nothing was.
        """
        if saved is not None:
            self.log_line(f"Saved {saved}. Stopped ({reason}); materialize again to resume there.")
        return Stopped(reason)


NO_CALLBACKS = TrainingCallbacks()
"""No callbacks."""
