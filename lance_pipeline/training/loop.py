"""The training loop."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import nn

from lance_pipeline.errors import InputError
from lance_pipeline.freed_memory import keep_freed_memory
from lance_pipeline.loader.devices import Batch
from lance_pipeline.loader.image_loader import ImageLoader
from lance_pipeline.storage.formats import known_fields
from lance_pipeline.training.callbacks import NO_CALLBACKS, StepProgress, TrainingCallbacks
from lance_pipeline.training.checkpoint import Checkpoints, Snapshot
from lance_pipeline.training.device import Device, own_random_numbers, reproducible
from lance_pipeline.training.history import Epoch, best_of, read_history
from lance_pipeline.training.learner import Learner, balanced_weights
from lance_pipeline.training.pace import Pace
from lance_pipeline.training.recipe import Recipe
from lance_pipeline.training.scores import Scores, evaluate

# Batches between checks of the losses, since reading a loss waits for the device; the CPU checks every batch.
_LOOK_EVERY = 50


@dataclass
class Trained:
    """The weights of the best epoch by validation, and the history of all epochs.

    ``train_accuracy`` is the accuracy of these weights on training images without augmentation; None if not measured.
    """

    state: dict[str, torch.Tensor]
    best: Epoch
    history: list[Epoch]
    train_accuracy: float | None = None


def train(
    model: nn.Module,
    train_loader: ImageLoader,
    val_loader: ImageLoader,
    recipe: Recipe,
    device: Device,
    *,
    transform: Callable[[torch.Tensor, torch.Tensor], Batch] = lambda images, labels: (images, labels),
    checkpoints: Checkpoints | None = None,
    callbacks: TrainingCallbacks = NO_CALLBACKS,
) -> Trained:
    """Train ``model`` by the recipe and return the weights of its best epoch.

    The best epoch is the first with the best validation metric; the lower validation loss breaks ties.

    Args:
        model: maps float images (n, 3, h, w) to logits (n, classes); it is moved to the device.
        train_loader: yields images (n, 3, h, w) and labels on the device, shuffled and augmented.
        val_loader: the same for validation, normalised, in stored order.
        recipe: all settings.
        device: the device and precision.
        transform: turns a training batch into the model's input.
        checkpoints: the state to resume from, and where to save it; None saves nothing.
        callbacks: callbacks for progress and cancellation.

    Raises:
        InputError: the training split is too small to train on, the loss became infinite or NaN, or a checkpoint
            cannot be written.
        Stopped: ``callbacks.stop`` gave a reason; the state is saved.
    """
    if train_loader.rows < 2:
        raise InputError(f"{train_loader.split.uri} has {train_loader.rows} images; training needs at least 2.")
    training = _Training(model, train_loader, val_loader, recipe, device, transform, checkpoints, callbacks)
    with (
        own_random_numbers(),
        reproducible(recipe.deterministic),
        keep_freed_memory() if device.torch_device.type == "cpu" else nullcontext(),
    ):
        return training.run()


@dataclass
class _Partial:
    """An unfinished epoch."""

    learning_rate: float
    losses: torch.Tensor
    """The loss of each batch, on the device."""
    images: list[int] = field(default_factory=list)
    """The number of images in each batch so far."""
    seconds: float = 0.0


class _Training:
    """A training in progress."""

    def __init__(
        self,
        model: nn.Module,
        train_loader: ImageLoader,
        val_loader: ImageLoader,
        recipe: Recipe,
        device: Device,
        transform: Callable[[torch.Tensor, torch.Tensor], Batch],
        checkpoints: Checkpoints | None,
        callbacks: TrainingCallbacks,
    ) -> None:
        self._loader, self._val_loader = train_loader, val_loader
        self._recipe, self._device, self._transform = recipe, device, transform
        self._checkpoints, self._callbacks = checkpoints, callbacks
        self._epochs = recipe.epochs_for(train_loader.rows)
        # A last batch of one image is left out, because batch norm has no variance over it.
        self._usable = len(train_loader) - (train_loader.rows % recipe.images_per_batch == 1)
        self._batches = min(self._usable, recipe.batches_per_epoch or self._usable)
        weights = balanced_weights(train_loader.class_counts) if recipe.class_weights == "balanced" else None
        steps = self._epochs * self._batches
        self._learner = Learner(model, recipe, device, steps=steps, class_weights=weights, log_line=callbacks.log_line)
        self._history: list[Epoch] = []
        self._best_state: dict[str, torch.Tensor] = {}
        self._partial = self._begun()
        self._pace = Pace(0.0)

    def run(self) -> Trained:
        """Train to the end, resuming from the checkpoint if there is one."""
        state = None if self._checkpoints is None else self._checkpoints.state
        if state is not None:
            self._load_state_dict(state)
            self._callbacks.log_line(f"Resuming {self._place}")
        while not self._is_over():
            self._epoch()
        self._wait_until_saved()
        return Trained(self._best_state, best_of(self._history, self._recipe.best_by), self._history)

    @property
    def _place(self) -> str:
        """The current position, for messages."""
        epochs, batches = len(self._history), len(self._partial.images)
        if batches:
            return f"after epoch {epochs + 1} of {self._epochs}, batch {batches} of {self._batches}"
        return f"after epoch {epochs} of {self._epochs}" if epochs else "before the first batch"

    def _is_over(self) -> bool:
        if len(self._history) >= self._epochs or (self._history and self._callbacks.enough(self._history)):
            return True
        if not self._history or self._recipe.patience is None:
            return False
        best = best_of(self._history, self._recipe.best_by)
        return len(self._history) - best.number >= self._recipe.patience

    def _begun(self) -> _Partial:
        """The next epoch, before its first batch."""
        self._loader.set_epoch(len(self._history))
        return _Partial(self._learner.learning_rate, torch.zeros(self._batches, device=self._device.torch_device))

    def _epoch(self) -> None:
        """Finish an epoch, validate, and save."""
        began = time.monotonic() - self._partial.seconds
        self._train_epoch(began)
        stats = self._loader.take_stats()
        validation = evaluate(self._learner.evaluation_model, self._val_loader, self._device, self._stop_if_asked)
        if not math.isfinite(validation.loss):
            raise InputError(
                f"the validation loss is no longer finite in epoch {len(self._history) + 1}, though the weights are: "
                "the logits overflow. The last checkpoint is from before that. Lower "
                f"`recipe.learning_rate` (the peak is {self._recipe.peak_learning_rate:g}), or set "
                "`recipe.gradient_clip` or `precision: fp32`."
            )
        epoch = self._finished_epoch(validation, stats.waiting_share, began)
        self._history.append(epoch)
        snapshot = Snapshot()
        if best_of(self._history, self._recipe.best_by) is epoch:
            self._best_state = snapshot.of(self._learner.evaluation_model.state_dict())
        self._partial = self._begun()
        self._callbacks.on_epoch(epoch)
        self._save(snapshot)

    def _finished_epoch(self, validation: Scores, data_wait: float, began: float) -> Epoch:
        """The results of the epoch, whose batches are all done."""
        partial, images = self._partial, sum(self._partial.images)
        counts = torch.tensor(partial.images, device=self._device.torch_device)
        duration = time.monotonic() - began
        left = self._pace.seconds_left(self._done(self._batches))
        if left is None:
            # Resumed after the last batch of the epoch.
            left = duration * (self._epochs - len(self._history) - 1)
        return Epoch(
            number=len(self._history) + 1,
            of=self._epochs,
            train_loss=((partial.losses[: len(counts)] * counts).sum() / images).item(),
            val_loss=validation.loss,
            val_accuracy=validation.accuracy,
            val_macro_f1=validation.macro_f1,
            learning_rate=partial.learning_rate,
            duration=duration,
            images_per_second=images / partial.seconds if partial.seconds else 0.0,
            data_wait=data_wait,
            seconds_left=left,
            ended=time.time(),
        )

    def _train_epoch(self, began: float) -> None:
        """Train on the rest of the epoch's batches."""
        self._learner.begin_epoch(len(self._history))
        partial = self._partial
        for images, labels in self._remaining():
            loss = self._learner.step(*self._transform(images, labels))
            partial.losses[len(partial.images)] = loss
            partial.images.append(len(labels))
            partial.seconds = time.monotonic() - began
            number = len(partial.images)
            if self._device.torch_device.type == "cpu" or number % _LOOK_EVERY == 0:
                self._require_finite_losses()
            left = self._pace.after_batch(self._done(number))
            step = StepProgress(len(self._history) + 1, self._epochs, number, self._batches, loss, left)
            self._callbacks.on_step(step)
            self._stop_if_asked()
            if self._checkpoints is not None and self._checkpoints.due():
                self._save(Snapshot())
        self._require_finite_losses()
        self._require_finite_weights()

    def _remaining(self) -> Iterator[Batch]:
        """The remaining batches of the epoch."""
        left = self._batches - len(self._partial.images)
        if not left:
            return iter(())
        batches = (batch for batch in self._loader if len(batch[1]) > 1)
        # Read to the loader's very end, where it completes its cache.
        return islice(batches, left) if self._batches < self._usable else batches

    def _stop_if_asked(self) -> None:
        reason = self._callbacks.stop()
        if reason is not None:
            self._save(Snapshot())
            self._wait_until_saved()
            raise self._callbacks.stopped(reason, None if self._checkpoints is None else self._place)

    def _require_finite_losses(self) -> None:
        """Check that the losses since the last check are finite."""
        losses = self._partial.losses[: len(self._partial.images)][-_LOOK_EVERY:]
        wrong = (~torch.isfinite(losses)).nonzero().flatten().tolist()
        if wrong:
            raise self._not_finite("loss is", len(self._partial.images) - len(losses) + wrong[0])

    def _require_finite_weights(self) -> None:
        if self._partial.images and not self._learner.is_finite():
            raise self._not_finite("weights are", len(self._partial.images) - 1)

    def _not_finite(self, what: str, batch: int) -> InputError:
        paths = self._loader.batch_paths(batch)
        shown = ", ".join(paths[:3]) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")
        return InputError(
            f"the {what} no longer finite in epoch {len(self._history) + 1}, batch {batch + 1} of {self._batches}, of "
            f"the images {shown}. The last checkpoint is from before that. Look at these images, or lower "
            f"`recipe.learning_rate` (the peak is {self._recipe.peak_learning_rate:g}), or set `recipe.gradient_clip`.",
            details=paths,
        )

    def _done(self, batches: int) -> float:
        """The share of the training that is done after this many batches of the epoch."""
        return (len(self._history) + batches / self._batches) / self._epochs

    def _save(self, snapshot: Snapshot) -> None:
        """Start saving the state, once it is known to be finite."""
        if self._checkpoints is not None:
            # A NaN loss does not always reach the weights: fp16's scaler skips its step.
            self._require_finite_losses()
            self._require_finite_weights()
            self._checkpoints.save(self._state_dict(snapshot))

    def _wait_until_saved(self) -> None:
        if self._checkpoints is not None:
            self._checkpoints.wait()

    def _state_dict(self, snapshot: Snapshot) -> dict[str, Any]:
        """Everything that the rest of the training depends on; later steps do not change it."""
        cuda = torch.cuda.get_rng_state_all() if self._device.torch_device.type == "cuda" else []
        moving = {
            "learner": self._learner.state_dict(),
            "loader": self._loader.state_dict(),
            "random": [torch.get_rng_state(), *cuda],
            "partial": asdict(self._partial),
        }
        history = [asdict(epoch) for epoch in self._history]
        return snapshot.of(moving) | {"history": history, "best": self._best_state}

    def _load_state_dict(self, state: dict[str, Any]) -> None:
        self._learner.load_state_dict(state["learner"])
        self._history = read_history(state["history"])
        self._best_state = state["best"]
        self._partial = _Partial(**known_fields(_Partial, state["partial"]))
        self._partial.losses = self._partial.losses.to(self._device.torch_device)
        self._loader.load_state_dict(state["loader"])
        cpu, *cuda = state["random"]
        torch.set_rng_state(cpu)
        if self._device.torch_device.type == "cuda" and len(cuda) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(cuda)
        self._pace = Pace(self._done(len(self._partial.images)))
