"""The weights and all that changes them: one step of training."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import ConstantLR, LRScheduler, OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lance_pipeline.errors import InputError
from lance_pipeline.training.device import Device
from lance_pipeline.training.recipe import Recipe


class Learner:
    """A model with its optimizer, schedule, average and gradient scaler.

    Args:
        model: gives logits (n, classes) for images (n, 3, h, w); its last child is the head. It is moved to the device.
        recipe: all settings.
        device: where, in which precision.
        steps: over the whole training; epochs times batches.
        class_weights: float (classes,), 1 on average over the images; None weighs all the same.
        tell: called with what is worth a line in a log.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        device: Device,
        *,
        steps: int,
        class_weights: torch.Tensor | None = None,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.model = model.to(device.torch_device).to(memory_format=torch.channels_last)
        self._recipe, self._device, self._tell = recipe, device, tell
        weight = None if class_weights is None else class_weights.to(device.torch_device)
        self._criterion = nn.CrossEntropyLoss(weight, reduction="sum", label_smoothing=recipe.label_smoothing)
        decayed, spared = decayed_and_spared(model)
        groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": spared, "weight_decay": 0.0}]
        self._optimizer = SGD(groups, lr=recipe.peak_learning_rate, momentum=recipe.momentum)
        self._schedule = self._schedule_of(steps)
        self._average = _averaged(self.model, recipe.averaging)
        self._scaler = torch.amp.GradScaler(device.torch_device.type, enabled=device.precision == "fp16")
        # Of a batch, which the device's memory holds one after the other.
        self._parts = 1

    def _schedule_of(self, steps: int) -> LRScheduler:
        if self._recipe.schedule == "constant":
            return ConstantLR(self._optimizer, factor=1.0)
        peak = self._recipe.peak_learning_rate
        return OneCycleLR(self._optimizer, max_lr=peak, total_steps=steps, cycle_momentum=False)

    @property
    def learning_rate(self) -> float:
        """Of the next step."""
        return float(self._schedule.get_last_lr()[0])

    @property
    def judged(self) -> nn.Module:
        """What is validated and kept: the average of the weights, or the weights themselves."""
        return self.model if self._average is None else self._average.module

    def is_finite(self) -> bool:
        """Whether all weights are numbers."""
        return bool(torch.stack([torch.isfinite(value).all() for value in self.model.parameters()]).all())

    def begin_epoch(self, number: int) -> None:
        """To training mode; in the first epochs, counted from 0, the recipe may train the head alone."""
        frozen = number < self._recipe.freeze_epochs
        self.model.train(not frozen)
        self.model.requires_grad_(not frozen)
        head = list(self.model.children())[-1]
        head.train().requires_grad_(True)

    def step(self, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Learn from a batch; its mean loss, a scalar on the device.

        Where the device's memory does not hold the batch, its gradients are added up over parts of it. They are
        those of the batch, but where batch norm takes the statistics of each part.

        Raises:
            InputError: the memory does not even hold two images.
        """
        # As the model is: CUDA's roll, and with it MixUp, loses it.
        images = images.contiguous(memory_format=torch.channels_last)
        while True:
            try:
                loss = self._gradients(images, targets)
                break
            except torch.OutOfMemoryError as error:
                self._halve(len(images), error)
            # Not before the error is gone, which holds all that was computed.
            torch.cuda.empty_cache()
        if self._recipe.gradient_clip is not None:
            self._scaler.unscale_(self._optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self._recipe.gradient_clip)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._schedule.step()
        if self._average is not None:
            self._average.update_parameters(self.model)
        return loss

    def _gradients(self, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The mean loss, with its gradients left in the parameters."""
        self._optimizer.zero_grad()
        total = torch.zeros((), device=images.device)
        # A part of one image would leave batch norm without a variance.
        parts = max(min(self._parts, len(images) // 2), 1)
        for part, wanted in zip(images.tensor_split(parts), targets.tensor_split(parts), strict=True):
            with self._device.autocast():
                loss = self._criterion(self.model(part), wanted) / len(images)
            self._scaler.scale(loss).backward()
            total += loss.detach()
        return total

    def _halve(self, images: int, error: Exception) -> None:
        """Take batches in twice as many parts from now on."""
        if self._parts * 2 > images // 2:
            raise InputError(
                f"{self._device.name} has too little memory for {-(-images // self._parts)} images: {error}. Free its "
                "memory, or lower `image_size`."
            ) from error
        self._parts *= 2
        self._optimizer.zero_grad()
        self._tell(
            f"{self._device.name} ran out of memory: each batch is now taken in {self._parts} parts, "
            "whose gradients are added up"
        )

    def state_dict(self) -> dict[str, Any]:
        """All that a later step depends on."""
        return {
            "model": self.model.state_dict(),
            "average": None if self._average is None else self._average.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "scaler": self._scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.model.load_state_dict(state["model"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        # Empty from a device with another precision.
        if state["scaler"]:
            self._scaler.load_state_dict(state["scaler"])


def decayed_and_spared(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The parameters with weight decay (matrices, filters) and those without (norms, biases)."""
    parameters = list(model.parameters())
    return [p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim <= 1]


def balanced_weights(counts: list[int]) -> torch.Tensor:
    """Weights of classes, float (classes,), by the rarity of each: 1 on average over the images.

    The same as scikit-learn's ``class_weight="balanced"``; classes without images weigh nothing.
    """
    sizes = torch.tensor(counts, dtype=torch.float32)
    there = sizes > 0
    return torch.where(there, sizes.sum() / (there.sum() * sizes.clamp(min=1)), 0.0)


def _averaged(model: nn.Module, decay: float) -> AveragedModel | None:
    if not decay:
        return None
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
