"""A whole step of training as one CUDA graph."""

from collections.abc import Callable

import torch

Step = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Kind = tuple[tuple[torch.Size, tuple[int, ...], torch.dtype], ...]
"""What a graph is bound to: shape, layout and type of each tensor."""


class StepGraph:
    """A step that was recorded once, and is replayed for batches of the same kind.

    At small images a step is some hundred kernels, each done sooner than Python launches the next: a replay launches
    all of them at once. It computes what the step itself would.

    Args:
        step: takes images and targets and gives the loss, all on the device. It must not look at the device, and all
            that it allocates for good must exist: it has run before.
        images: a batch like those to come; only its shape, type and layout matter.
        targets: likewise.

    Attributes:
        kind: of the batches that it can be replayed for.

    Raises:
        RuntimeError: the step cannot be recorded; torch.OutOfMemoryError, which is one, where there is no memory.
    """

    def __init__(self, step: Step, images: torch.Tensor, targets: torch.Tensor) -> None:
        self.kind = kind_of(images, targets)
        self._images, self._targets = torch.empty_like(images), torch.empty_like(targets)
        self._graph = torch.cuda.CUDAGraph()
        # The loader's threads allocate memory meanwhile.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._loss = step(self._images, self._targets)

    def __call__(self, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Replay the step for a batch; its loss."""
        self._images.copy_(images)
        self._targets.copy_(targets)
        self._graph.replay()
        # The next replay writes over it.
        return self._loss.clone()


def kind_of(*tensors: torch.Tensor) -> Kind:
    """The kind of a batch."""
    return tuple((tensor.shape, tensor.stride(), tensor.dtype) for tensor in tensors)
