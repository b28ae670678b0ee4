"""Batches to a device: copied from page-locked memory beside the computation, finished there."""

from collections import deque
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, nullcontext

import torch

from lance_pipeline.loader.assembly import Assembled, Normalization
from lance_pipeline.loader.augmentation import Operation, normalized

Batch = tuple[torch.Tensor, torch.Tensor]
# Copies take less time than the steps that wait for them: more are on their way only if something is wrong.
_IN_FLIGHT = 4


class CopyStream:
    """A CUDA stream on which copies run beside the computation.

    Args:
        device: where to.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._stream = device, torch.cuda.Stream(device)

    def current(self) -> AbstractContextManager[object]:
        """Within, work for the device is queued on this stream."""
        return torch.cuda.stream(self._stream)

    def copied(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor on the device, once an event recorded after this has happened; until then keep the tensor."""
        return (tensor if tensor.is_pinned() else tensor.pin_memory()).to(self._device, non_blocking=True)

    def record(self) -> torch.Event:
        """An event that happens when all that was queued so far is done."""
        return self._stream.record_event()

    def hand_over(self, batch: Batch, done: torch.Event) -> None:
        """Have the computation wait for the batch."""
        current = torch.cuda.current_stream(self._device)
        current.wait_event(done)
        for tensor in batch:
            # Or its memory could be used again while the computation still reads it.
            tensor.record_stream(current)


def copy_stream(device: torch.device) -> CopyStream | None:
    """A stream for copies to the device, if it is one of CUDA's."""
    return CopyStream(device) if device.type == "cuda" else None


class Upload:
    """Copies batches to a device one ahead, and does there what is left to do.

    Args:
        device: other than the CPU.
        operations: whose draws the batches carry.
        normalization: to float32; None leaves uint8.
        stream: for copies beside the computation; None copies in turn.
    """

    def __init__(
        self,
        device: torch.device,
        operations: tuple[Operation, ...],
        normalization: Normalization | None,
        stream: CopyStream | None,
    ) -> None:
        self._device, self._operations, self._normalization, self._stream = device, operations, normalization, stream
        self._in_flight: deque[tuple[Assembled, torch.Event]] = deque()

    def __call__(self, batches: Iterator[Assembled]) -> Generator[Batch, None, None]:
        """The batches on the device."""
        ready: tuple[Batch, torch.Event | None] | None = None
        try:
            for assembled in batches:
                # The stream continues with the next copy, which this batch must not wait for.
                upcoming = self._begin(assembled)
                if ready is not None:
                    yield self._arrived(*ready)
                ready = upcoming
            if ready is not None:
                yield self._arrived(*ready)
        finally:
            self._let_go(0)

    def _begin(self, assembled: Assembled) -> tuple[Batch, torch.Event | None]:
        """The batch on the device, and the event that it is there; None where it is there already."""
        with self._stream.current() if self._stream else nullcontext():
            images, labels = self._copied(assembled.images), self._copied(assembled.labels)
            if assembled.draws is not None:
                for operation, drawn in zip(self._operations, assembled.draws.batch, strict=True):
                    images = operation.on_tensors(images, self._copied(torch.from_numpy(drawn)))
            if self._normalization is not None:
                images = normalized(images, *self._normalization)
            batch = images.contiguous(memory_format=torch.channels_last), labels
            if self._stream is None:
                return batch, None
            done = self._stream.record()
        # Its memory looks unused as soon as nobody holds it, even if the card still reads it.
        self._in_flight.append((assembled, done))
        self._let_go(_IN_FLIGHT)
        return batch, done

    def _let_go(self, most: int) -> None:
        """Forget the batches that have been copied; of the others wait for all but ``most``."""
        while self._in_flight and (len(self._in_flight) > most or self._in_flight[0][1].query()):
            self._in_flight[0][1].synchronize()
            self._in_flight.popleft()

    def _copied(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self._device) if self._stream is None else self._stream.copied(tensor)

    def _arrived(self, batch: Batch, done: torch.Event | None) -> Batch:
        if self._stream is not None and done is not None:
            self._stream.hand_over(batch, done)
        return batch
