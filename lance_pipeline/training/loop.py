"""The training loop."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import ConstantLR, LRScheduler, OneCycleLR

from lance_pipeline.errors import InputError
from lance_pipeline.images.loader import ImageLoader
from lance_pipeline.images.loading.devices import Batch
from lance_pipeline.training.device import Device
from lance_pipeline.training.recipe import Recipe


@dataclass(frozen=True)
class Epoch:
    """What one epoch came to.

    Losses are means over images, in nats, and times in seconds; ``data_wait`` is the share of the time from the first
    to the last batch that the training waited for data.
    """

    number: int
    of: int
    train_loss: float
    val_loss: float
    val_accuracy: float
    learning_rate: float
    duration: float
    images_per_second: float
    data_wait: float
    seconds_left: float


@dataclass(frozen=True)
class Step:
    """Where the training stands after a batch.

    ``loss`` is a scalar tensor that still lies on the device: reading it waits for the batch.
    """

    epoch: int
    batch: int
    batches: int
    loss: torch.Tensor
    seconds_left: float


@dataclass
class Trained:
    """The weights of the best epoch by validation accuracy, and the course of all epochs."""

    state: dict[str, torch.Tensor]
    best: Epoch
    history: list[Epoch]


def train(
    model: nn.Module,
    train_loader: ImageLoader,
    val_loader: ImageLoader,
    recipe: Recipe,
    device: Device,
    *,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    on_step: Callable[[Step], None] = lambda step: None,
) -> Trained:
    """Train ``model`` by the recipe and return the weights of its best epoch.

    The best epoch is the first of those with the highest validation accuracy, the lower
    validation loss deciding between equals.

    Args:
        model: takes float images (n, 3, h, w), gives logits (n, classes); it is moved to the device.
        train_loader: gives normalised images (n, 3, h, w) and labels on the device, shuffled and augmented.
        val_loader: the same for validation, in the stored order.
        recipe: all settings.
        device: where to train, in which precision.
        on_epoch: called after each epoch's validation.
        on_step: called after each batch.

    Raises:
        InputError: the training split is too small to train on, or the loss became infinite or NaN.
    """
    if train_loader.rows < 2:
        raise InputError(f"{train_loader.split.uri} has {train_loader.rows} images; training needs at least 2.")
    run = _Run(model, train_loader, recipe, device)
    history: list[Epoch] = []
    best: Trained | None = None
    while best is None or len(history) < recipe.epochs:
        epoch = run.epoch(len(history), val_loader, on_step)
        _require_finite(epoch)
        history.append(epoch)
        if best is None or _rank(epoch) > _rank(best.best):
            best = Trained({k: v.detach().cpu().clone() for k, v in model.state_dict().items()}, epoch, history)
        on_epoch(epoch)
    return best


def decayed_and_spared(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The parameters with weight decay (matrices, filters) and those without (norms, biases)."""
    parameters = list(model.parameters())
    return [p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim <= 1]


class _Run:
    """The moving parts of one training."""

    def __init__(
        self,
        model: nn.Module,
        loader: ImageLoader,
        recipe: Recipe,
        device: Device,
    ) -> None:
        self.model = model.to(device.torch_device).to(memory_format=torch.channels_last)
        self.loader, self.recipe, self.device = loader, recipe, device
        self.batches = min(len(loader), recipe.batches_per_epoch or len(loader))
        self.criterion = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
        decayed, spared = decayed_and_spared(model)
        groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": spared, "weight_decay": 0.0}]
        self.optimizer = SGD(groups, lr=recipe.peak_learning_rate, momentum=recipe.momentum)
        self.schedule = self._schedule()
        self.scaler = torch.amp.GradScaler(device.torch_device.type, enabled=device.precision == "fp16")
        self.started = time.monotonic()

    def _schedule(self) -> LRScheduler:
        if self.recipe.schedule == "constant":
            return ConstantLR(self.optimizer, factor=1.0)
        return OneCycleLR(
            self.optimizer,
            max_lr=self.recipe.peak_learning_rate,
            total_steps=self.batches * self.recipe.epochs,
            cycle_momentum=False,
        )

    def epoch(self, number: int, val_loader: ImageLoader, on_step: Callable[[Step], None]) -> Epoch:
        """Train for one epoch, then validate."""
        started = time.monotonic()
        learning_rate = float(self.schedule.get_last_lr()[0])
        losses, images = self._train_epoch(number, on_step)
        seconds, stats = time.monotonic() - started, self.loader.take_stats()
        val_loss, val_accuracy = evaluate(self.model, val_loader, self.device)
        return Epoch(
            number=number + 1,
            of=self.recipe.epochs,
            train_loss=losses / images,
            val_loss=val_loss,
            val_accuracy=val_accuracy,
            learning_rate=learning_rate,
            duration=time.monotonic() - started,
            images_per_second=images / seconds,
            data_wait=stats.waiting_share,
            seconds_left=self._seconds_left((number + 1) / self.recipe.epochs),
        )

    def _train_epoch(self, number: int, on_step: Callable[[Step], None]) -> tuple[float, int]:
        """The sum of the losses over images, and the number of images."""
        self.model.train()
        self.loader.set_epoch(number)
        losses, images = torch.zeros((), device=self.device.torch_device), 0
        for batch, (inputs, labels) in enumerate(islice(self._batches(), self.batches), start=1):
            loss = self._step(inputs, labels)
            losses += loss * len(labels)
            images += len(labels)
            done = (number + batch / self.batches) / self.recipe.epochs
            on_step(Step(number + 1, batch, self.batches, loss, self._seconds_left(done)))
        return losses.item(), images

    def _batches(self) -> Iterator[Batch]:
        """All batches but those of one image, of which batch norm cannot take the variance."""
        return (batch for batch in self.loader if len(batch[1]) > 1)

    def _step(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        self.optimizer.zero_grad()
        with self.device.autocast():
            loss = self.criterion(self.model(images), labels)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        return loss.detach()

    def _seconds_left(self, done: float) -> float:
        return (time.monotonic() - self.started) * (1 - done) / done


@torch.inference_mode()
def evaluate(model: nn.Module, loader: ImageLoader, device: Device) -> tuple[float, float]:
    """The mean cross-entropy in nats, and the accuracy, over all rows of the loader, which normalises."""
    model.eval()
    loss, correct = 0.0, 0
    for images, labels in loader:
        with device.autocast():
            logits = model(images).float()
        loss += nn.functional.cross_entropy(logits, labels, reduction="sum").item()
        correct += int((logits.argmax(1) == labels).sum())
    return loss / loader.rows, correct / loader.rows


def _require_finite(epoch: Epoch) -> None:
    if not math.isfinite(epoch.train_loss) or not math.isfinite(epoch.val_loss):
        raise InputError(
            f"the loss is no longer finite in epoch {epoch.number} (train {epoch.train_loss}, val {epoch.val_loss}). "
            f"Lower `recipe.learning_rate`; the peak was {epoch.learning_rate:g} or more."
        )


def _rank(epoch: Epoch) -> tuple[float, float]:
    return epoch.val_accuracy, -epoch.val_loss
