"""One training step: the weights and everything that updates them."""

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

# Steps to run before recording one, so that libraries have chosen algorithms and allocated workspaces.
_BEFORE_GRAPH = 3


class Learner:
    """A model with its optimizer, schedule, average and gradient scaler.

    No step waits for the device.

    Args:
        model: maps images (n, 3, h, w) to logits (n, classes); its last linear layer or convolution
            is the head. It is moved to the device.
        recipe: all settings.
        device: the device and precision.
        steps: the number of steps in the whole training: epochs times batches.
        class_weights: float (classes,), 1 on average over the images; None weighs all classes equally.
        log_line: called with log lines.

    Raises:
        InputError: the recipe requires a graph, and the device is not CUDA or its precision is fp16.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        device: Device,
        *,
        steps: int,
        class_weights: torch.Tensor | None = None,
        log_line: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.model = model.to(device.torch_device).to(memory_format=torch.channels_last)
        self._recipe, self._device, self._log_line = recipe, device, log_line
        self._head = head_name(self.model)
        weight = None if class_weights is None else class_weights.to(device.torch_device)
        self._criterion = nn.CrossEntropyLoss(weight, reduction="sum", label_smoothing=recipe.label_smoothing)
        self._rates = LearningRates(recipe.schedule, recipe.peak_learning_rate, steps)
        self._optimizer, self._rate = _sgd(model, recipe, device)
        self._average = WeightAverage(self.model, recipe.averaging) if recipe.averaging else None
        self._scaler = torch.amp.GradScaler(device.torch_device.type, enabled=device.precision == "fp16")
        # Micro-batches per batch, processed one after the other to save device memory.
        self._parts = 1
        self._graph: StepGraph | None = None
        self._records, self._run_before = _records(recipe, device), Counter[Kind]()

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        return self._rates.current

    @property
    def evaluation_model(self) -> nn.Module:
        """The model to validate and keep: the averaged weights, or the weights themselves."""
        return self.model if self._average is None else self._average.module

    def is_finite(self) -> bool:
        """Whether all weights are finite."""
        return bool(torch.stack([torch.isfinite(value).all() for value in self.model.parameters()]).all())

    def begin_epoch(self, number: int) -> None:
        """Switch to training mode; in the first epochs, counted from 0, the recipe may train only the head."""
        frozen = number < self._recipe.freeze_epochs
        if self._recipe.freeze_epochs and number in (0, self._recipe.freeze_epochs):
            # The graph fixes which gradients are computed.
            self._forget_graph()
        self.model.train(not frozen)
        self.model.requires_grad_(not frozen)
        self.model.get_submodule(self._head).train().requires_grad_(True)

    def step(self, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Train on a batch; returns its mean loss, a scalar on the device.

        If the device's memory cannot hold the batch, gradients are accumulated over micro-batches. They equal those
        of the batch, except that batch norm uses the statistics of each micro-batch.

        Raises:
            InputError: the memory cannot hold even two images, or the recipe requires a graph that cannot be recorded.
        """
        # The model's memory format, which CUDA's roll, and thus MixUp, loses.
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
            # A graph reads the rate from this tensor.
            self._rate.fill_(self._rates.current)
            return
        for group in self._optimizer.param_groups:
            group["lr"] = self._rates.current

    def _record(self, images: torch.Tensor, targets: torch.Tensor) -> None:
        """Record the step for batches like this one, if possible; recording changes no weights."""
        try:
            self._optimizer.zero_grad()
            self._graph = StepGraph(self._whole_step, images, targets)
        except RuntimeError as error:
            if self._recipe.step == "graph":
                raise InputError(f"`step: graph` cannot be recorded: {error}. Set `step: auto` or `eager`.") from error
            self._records = False
            self._log_line(f"the step cannot be recorded as a CUDA graph ({error}): each is launched kernel by kernel")

    def _forget_graph(self) -> None:
        self._graph = None
        self._run_before.clear()

    def _step_in_parts(self, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Run the step in as many micro-batches as memory requires."""
        while True:
            try:
                loss = self._gradients(images, targets)
                break
            except torch.OutOfMemoryError as error:
                self._halve(len(images), error)
            # Only once the error is released, because it keeps the computed tensors alive.
            torch.cuda.empty_cache()
        self._update()
        return loss

    def _whole_step(self, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        loss = self._gradients(images, targets)
        self._update()
        return loss

    def _update(self) -> None:
        """Update the weights from their gradients, and the average from the weights."""
        if self._recipe.gradient_clip is not None:
            self._scaler.unscale_(self._optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self._recipe.gradient_clip)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        if self._average is not None:
            self._average.update()

    def _gradients(self, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Compute the mean loss and leave its gradients in the parameters."""
        self._optimizer.zero_grad()
        total = torch.zeros((), device=images.device)
        # Batch norm has no variance in a micro-batch of one image.
        parts = max(min(self._parts, len(images) // 2), 1)
        for part, wanted in zip(images.tensor_split(parts), targets.tensor_split(parts), strict=True):
            with self._device.autocast():
                loss = self._criterion(self.model(part), wanted) / len(images)
            self._scaler.scale(loss).backward()
            total += loss.detach()
        return total

    def _halve(self, images: int, error: Exception) -> None:
        """Split batches into twice as many micro-batches from now on."""
        if self._parts * 2 > images // 2:
            raise InputError(
                f"{self._device.name} has too little memory for {-(-images // self._parts)} images: {error}. Free its "
                "memory, or lower `image_size`."
            ) from error
        self._parts *= 2
        self._forget_graph()
        self._optimizer.zero_grad()
        self._log_line(
            f"{self._device.name} ran out of memory: splitting each batch into {self._parts} micro-batches, whose "
            "gradients are added up"
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything that later steps depend on."""
        return {
            "model": self.model.state_dict(),
            "average": None if self._average is None else self._average.state_dict(),
            # The recipe defines the groups and their settings.
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
            # The optimizer replaced it with a copy.
            for group in self._optimizer.param_groups:
                group["lr"] = self._rate
        self._rates.load_state_dict(state["schedule"])
        # Empty if it was saved with another precision.
        if state["scaler"]:
            self._scaler.load_state_dict(state["scaler"])


def _sgd(model: nn.Module, recipe: Recipe, device: Device) -> tuple[SGD, torch.Tensor | float]:
    """The optimizer and its learning rate, on CUDA a tensor on the device that is changed in place."""
    kind = device.torch_device.type
    peak = recipe.peak_learning_rate
    rate = torch.tensor(peak, device=device.torch_device) if kind == "cuda" else peak
    decayed, spared = decayed_and_spared(model)
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": spared, "weight_decay": 0.0}]
    optimizer = SGD(groups, lr=rate, momentum=recipe.momentum, fused=kind in ("cpu", "cuda"))
    if recipe.momentum:
        # torch creates each in its parameter's first step, and fails if some of a group are still missing.
        for parameter in model.parameters():
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer, rate


def _records(recipe: Recipe, device: Device) -> bool:
    """Whether steps are recorded as a graph.

    Raises:
        InputError: the recipe requires a graph, and the device does not support it.
    """
    # fp16's scaler skips some steps, a decision that a graph cannot make.
    can = device.torch_device.type == "cuda" and device.precision != "fp16"
    if recipe.step == "graph" and not can:
        raise InputError(
            f"`step: graph` needs a CUDA device and the precision fp32 or bf16, not {device.name} in "
            f"{device.precision}. Set `step: auto`, which uses a graph where possible."
        )
    return can and recipe.step != "eager"


def decayed_and_spared(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The parameters with weight decay (matrices, filters) and those without (norms, biases, positions, scales)."""
    decayed, spared = [], []
    for name, parameter in model.named_parameters():
        (decayed if name.endswith("weight") and parameter.ndim > 1 else spared).append(parameter)
    return decayed, spared


def balanced_weights(counts: list[int]) -> torch.Tensor:
    """Class weights, float (classes,), inversely proportional to class sizes: 1 on average over the images.

    The same as scikit-learn's ``class_weight="balanced"``; classes without images get weight 0.
    """
    sizes = torch.tensor(counts, dtype=torch.float32)
    there = sizes > 0
    return torch.where(there, sizes.sum() / (there.sum() * sizes.clamp(min=1)), 0.0)
