"""The weights and all that changes them: one step of training."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import SGD

from lance_pipeline.errors import InputError
from lance_pipeline.training.average import WeightAverage
from lance_pipeline.training.device import Device
from lance_pipeline.training.model import head_name
from lance_pipeline.training.recipe import Recipe
from lance_pipeline.training.schedule import LearningRates
from lance_pipeline.training.step_graph import Kind, StepGraph, kind_of

# So many steps run before one is recorded, so that libraries have chosen their algorithms and made their workspaces.
_BEFORE_GRAPH = 3


class Learner:
    """A model with its optimizer, schedule, average and gradient scaler.

    Nothing in a step waits for the device.

    Args:
        model: gives logits (n, classes) for images (n, 3, h, w); its last linear layer or convolution
            is the head. It is moved to the device.
        recipe: all settings.
        device: where, in which precision.
        steps: over the whole training; epochs times batches.
        class_weights: float (classes,), 1 on average over the images; None weighs all the same.
        tell: called with what is worth a line in a log.

    Raises:
        InputError: the recipe wants a graph, and the device is not CUDA or has no bf16.
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
        self._head = head_name(self.model)
        weight = None if class_weights is None else class_weights.to(device.torch_device)
        self._criterion = nn.CrossEntropyLoss(weight, reduction="sum", label_smoothing=recipe.label_smoothing)
        self._rates = LearningRates(recipe.schedule, recipe.peak_learning_rate, steps)
        self._optimizer, self._rate = _sgd(model, recipe, device)
        self._average = WeightAverage(self.model, recipe.averaging) if recipe.averaging else None
        self._scaler = torch.amp.GradScaler(device.torch_device.type, enabled=device.precision == "fp16")
        # Of a batch, which the device's memory holds one after the other.
        self._parts = 1
        self._graph: StepGraph | None = None
        self._records, self._run_before = _records(recipe, device), Counter[Kind]()

    @property
    def learning_rate(self) -> float:
        """Of the next step."""
        return self._rates.current

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
        if self._recipe.freeze_epochs and number in (0, self._recipe.freeze_epochs):
            # Which gradients it computes is part of it.
            self._forget_graph()
        self.model.train(not frozen)
        self.model.requires_grad_(not frozen)
        self.model.get_submodule(self._head).train().requires_grad_(True)

    def step(self, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Learn from a batch; its mean loss, a scalar on the device.

        Where the device's memory does not hold the batch, its gradients are added up over parts of it. They are
        those of the batch, but where batch norm takes the statistics of each part.

        Raises:
            InputError: the memory does not even hold two images, or the recipe wants a graph that cannot be recorded.
        """
        # As the model is: CUDA's roll, and with it MixUp, loses it.
        images = images.contiguous(memory_format=torch.channels_last)
        self._set_rate()
        kind = kind_of(images, targets)
        if self._graph is None and self._records and self._parts == 1 and self._run_before[kind] >= _BEFORE_GRAPH:
            self._record(images, targets)
        if self._graph is not None and self._graph.kind == kind:
            loss = self._graph(images, targets)
        else:
            loss = self._step_in_parts(images, targets)
            self._run_before[kind] += 1
        self._rates.advance()
        return loss

    def _set_rate(self) -> None:
        if isinstance(self._rate, torch.Tensor):
            # A graph reads it where it lies.
            self._rate.fill_(self._rates.current)
            return
        for group in self._optimizer.param_groups:
            group["lr"] = self._rates.current

    def _record(self, images: torch.Tensor, targets: torch.Tensor) -> None:
        """Record the step for batches like this one, where that can be done; recording changes no weights."""
        try:
            self._optimizer.zero_grad()
            self._graph = StepGraph(self._whole_step, images, targets)
        except RuntimeError as error:
            if self._recipe.step == "graph":
                raise InputError(f"`step: graph` cannot be recorded: {error}. Set `step: auto` or `eager`.") from error
            self._records = False
            self._tell(f"the step cannot be recorded as a CUDA graph ({error}): each is launched kernel by kernel")

    def _forget_graph(self) -> None:
        self._graph = None
        self._run_before.clear()

    def _step_in_parts(self, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The step, in as many parts as the memory wants."""
        while True:
            try:
                loss = self._gradients(images, targets)
                break
            except torch.OutOfMemoryError as error:
                self._halve(len(images), error)
            # Not before the error is gone, which holds all that was computed.
            torch.cuda.empty_cache()
        self._update()
        return loss

    def _whole_step(self, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        loss = self._gradients(images, targets)
        self._update()
        return loss

    def _update(self) -> None:
        """Change the weights by their gradients, and the average by the weights."""
        if self._recipe.gradient_clip is not None:
            self._scaler.unscale_(self._optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self._recipe.gradient_clip)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        if self._average is not None:
            self._average.update()

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
        self._forget_graph()
        self._optimizer.zero_grad()
        self._tell(
            f"{self._device.name} ran out of memory: splitting each batch into {self._parts} micro-batches, whose "
            "gradients are added up"
        )

    def state_dict(self) -> dict[str, Any]:
        """All that a later step depends on."""
        return {
            "model": self.model.state_dict(),
            "average": None if self._average is None else self._average.state_dict(),
            # The groups and their settings are the recipe's.
            "optimizer": self._optimizer.state_dict()["state"],
            "schedule": self._rates.state_dict(),
            "scaler": self._scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from a state."""
        self._forget_graph()
        self.model.load_state_dict(state["model"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": state["optimizer"], "param_groups": groups})
        if isinstance(self._rate, torch.Tensor):
            # The optimizer has taken a copy of it.
            for group in self._optimizer.param_groups:
                group["lr"] = self._rate
        self._rates.load_state_dict(state["schedule"])
        # Empty from a device with another precision.
        if state["scaler"]:
            self._scaler.load_state_dict(state["scaler"])


def _sgd(model: nn.Module, recipe: Recipe, device: Device) -> tuple[SGD, torch.Tensor | float]:
    """The optimizer, and its learning rate: on CUDA a tensor on the device, which is changed in place."""
    kind = device.torch_device.type
    peak = recipe.peak_learning_rate
    rate = torch.tensor(peak, device=device.torch_device) if kind == "cuda" else peak
    decayed, spared = decayed_and_spared(model)
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": spared, "weight_decay": 0.0}]
    optimizer = SGD(groups, lr=rate, momentum=recipe.momentum, fused=kind in ("cpu", "cuda"))
    if recipe.momentum:
        # torch makes them in the first step of each parameter, and fails where some of a group are not there yet.
        for parameter in model.parameters():
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer, rate


def _records(recipe: Recipe, device: Device) -> bool:
    """Whether steps are recorded as a graph.

    Raises:
        InputError: they are to be, and cannot.
    """
    # fp16's scaler leaves steps out, which a graph cannot decide.
    can = device.torch_device.type == "cuda" and device.precision != "fp16"
    if recipe.step == "graph" and not can:
        raise InputError(
            f"`step: graph` needs a CUDA device and the precision fp32 or bf16, not {device.name} in "
            f"{device.precision}. Set `step: auto`, which takes a graph where there can be one."
        )
    return can and recipe.step != "eager"


def decayed_and_spared(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The parameters with weight decay (matrices, filters) and those without (norms, biases, positions, scales)."""
    decayed, spared = [], []
    for name, parameter in model.named_parameters():
        (decayed if name.endswith("weight") and parameter.ndim > 1 else spared).append(parameter)
    return decayed, spared


def balanced_weights(counts: list[int]) -> torch.Tensor:
    """Weights of classes, float (classes,), by the rarity of each: 1 on average over the images.

    The same as scikit-learn's ``class_weight="balanced"``; classes without images weigh nothing.
    """
    sizes = torch.tensor(counts, dtype=torch.float32)
    there = sizes > 0
    return torch.where(there, sizes.sum() / (there.sum() * sizes.clamp(min=1)), 0.0)
