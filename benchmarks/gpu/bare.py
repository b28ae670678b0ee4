"""A hand-written training step in several variants, and ours."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import nn

from benchmarks.gpu.sizes import Cell
from lance_pipeline.training.device import Device
from lance_pipeline.training.learner import Learner, decayed_and_spared
from lance_pipeline.training.model import build_network
from lance_pipeline.training.recipe import Recipe

CLASSES = 10
Step = Callable[[torch.Tensor, torch.Tensor], object]
"""Trains on a batch of images and labels on the device."""
How = Literal["eager", "graph", "compiled"]
_WARM_UP = 5


class NoGraphError(RuntimeError):
    """A CUDA graph was requested for another device."""


def bare_step(cell: Cell, device: Device, how: How, compiler: str = "inductor") -> Step:
    """Forward, loss, backward and SGD, each in torch's fastest form; no schedule, no weight averaging.

    Args:
        cell: the shape of the batches.
        device: the device and the precision.
        how: ``eager``, ``graph`` (the whole step in one CUDA graph) or ``compiled`` (the network by ``torch.compile``).
        compiler: the backend of ``torch.compile``.

    Raises:
        NoGraphError: CUDA graphs need a CUDA device.
    """
    recipe = Recipe(stem=_stem(cell))
    torch.manual_seed(0)
    network = (
        build_network("resnet34", CLASSES, cell.stem).to(device.torch_device).to(memory_format=torch.channels_last)
    )
    decayed, spared = decayed_and_spared(network)
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": spared, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=1e-3, momentum=recipe.momentum, fused=True)
    criterion = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
    model = torch.compile(network, backend=compiler) if how == "compiled" else network
    dtype = torch.float16 if device.precision == "fp16" else torch.bfloat16

    def step(images: torch.Tensor, labels: torch.Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        # Memory of a graph must not be kept from one step to the next.
        with torch.autocast(
            device.torch_device.type, dtype, enabled=device.precision != "fp32", cache_enabled=how != "graph"
        ):
            loss = criterion(model(images), labels)
        loss.backward()
        optimizer.step()

    return _captured(step, cell, device) if how == "graph" else step


def own_step(cell: Cell, device: Device, **settings: object) -> Step:
    """Our step as training uses it, with the default recipe and these settings."""
    recipe = Recipe.model_validate({"stem": cell.stem, "batch_size": cell.batch, **settings})
    torch.manual_seed(0)
    learner = Learner(build_network("resnet34", CLASSES, cell.stem), recipe, device, steps=10**6)
    learner.begin_epoch(0)
    return learner.step


def synthetic_batch(cell: Cell, device: Device) -> tuple[torch.Tensor, torch.Tensor]:
    """Random images, channels last, and labels on the device."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(cell.batch, 3, cell.size, cell.size, generator=generator).to(device.torch_device)
    labels = torch.randint(CLASSES, (cell.batch,), generator=generator).to(device.torch_device)
    return images.contiguous(memory_format=torch.channels_last), labels


def synchronize() -> None:
    """Wait until the GPU has finished its queue."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _stem(cell: Cell) -> Literal["imagenet", "small"]:
    return "small" if cell.stem == "small" else "imagenet"


def _captured(step: Step, cell: Cell, device: Device) -> Step:
    """The step as one graph, which reads its batch from its own memory."""
    if device.torch_device.type != "cuda":
        raise NoGraphError("CUDA graphs need CUDA")
    images, labels = synthetic_batch(cell, device)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UP):
            step(images, labels)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    # Threads of a loader may pin memory during the capture.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        step(images, labels)

    def replay(new_images: torch.Tensor, new_labels: torch.Tensor) -> None:
        images.copy_(new_images, non_blocking=True)
        labels.copy_(new_labels, non_blocking=True)
        graph.replay()

    return replay
