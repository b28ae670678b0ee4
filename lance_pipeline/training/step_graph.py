"""A whole training step as one CUDA graph."""

from collections.abc import Callable

import torch

Step = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Kind = tuple[tuple[torch.Size, tuple[int, ...], torch.dtype], ...]
"""Shape, layout and dtype of each tensor; a graph works for one kind only."""


class StepGraph:
    """A step that is recorded once and replayed for batches of the same kind.

    With small images, a step is some hundred kernels, each of which ends before Python launches the next; a replay
    launches all of them at once. It computes the same as the step itself.

    Args:
        step: takes images and targets and returns the loss, all on the device. It must not wait for the device, and
            must have run before, so that its permanent allocations exist.
        images: a batch like those to come; only its shape, dtype and layout matter.
        targets: likewise.

    Attributes:
        kind: the kind of batches that it can be replayed for.

    Raises:
        RuntimeError: the step cannot be recorded; its subclass torch.OutOfMemoryError if memory runs out.
    """

    def __init__(self, step: Step, images: torch.Tensor, targets: torch.Tensor) -> None:
        self.kind = kind_of(images, targets)
        self._images, self._targets = torch.empty_like(images), torch.empty_like(targets)
        self._graph = torch.cuda.CUDAGraph()
        # The loader's threads allocate memory during the recording.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._loss = step(self._images, self._targets)

    def __call__(self, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Replay the step for a batch; returns its loss."""
        self._images.copy_(images)
        self._targets.copy_(targets)
        self._graph.replay()
        # The next replay overwrites it.
        return self._loss.clone()


def kind_of(*tensors: torch.Tensor) -> Kind:
    """The kind of a batch."""
    return tuple((tensor.shape, tensor.stride(), tensor.dtype) for tensor in tensors)
