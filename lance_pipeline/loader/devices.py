"""Copies batches to a device from page-locked memory, concurrently with the computation, and finishes them there."""

from collections import deque
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, nullcontext

import torch

from lance_pipeline.loader.assembly import CpuBatch, Normalization
from lance_pipeline.loader.augmentation import Operation, normalized

Batch = tuple[torch.Tensor, torch.Tensor]
# The maximum number of copies in flight. Copies are faster than training steps, so more would indicate a problem.
_IN_FLIGHT = 4


class CopyStream:
    """A CUDA stream for copies that run concurrently with the computation.

    Args:
        device: the target of the copies.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._stream = device, torch.cuda.Stream(device)

    def activate(self) -> AbstractContextManager[object]:
        """A context in which work for the device is queued on this stream."""
        return torch.cuda.stream(self._stream)

    def copy(self, tensor: torch.Tensor) -> torch.Tensor:
        """Queue a copy to the device; keep the source until an event recorded afterwards has completed."""
        return (tensor if tensor.is_pinned() else tensor.pin_memory()).to(self._device, non_blocking=True)

    def record(self) -> torch.Event:
        """An event that completes when everything queued so far is done."""
        return self._stream.record_event()

    def wait_for(self, batch: Batch, done: torch.Event) -> None:
        """Make the computation's stream wait for the batch."""
        current = torch.cuda.current_stream(self._device)
        current.wait_event(done)
        for tensor in batch:
            # Otherwise the memory could be reused while the computation still reads it.
            tensor.record_stream(current)


def copy_stream(device: torch.device) -> CopyStream | None:
    """A stream for copies to a CUDA device; None for other devices."""
    return CopyStream(device) if device.type == "cuda" else None


class Upload:
    """Copies batches to a device, one batch ahead, and augments and normalises them there.

    Args:
        device: a device other than the CPU.
        operations: the operations whose draws the batches contain.
        normalization: normalises to float32; None keeps uint8.
        stream: a stream for concurrent copies; None copies synchronously.
    """

    def __init__(
        self,
        device: torch.device,
        operations: tuple[Operation, ...],
        normalization: Normalization | None,
        stream: CopyStream | None,
    ) -> None:
        self._device, self._operations, self._normalization, self._stream = device, operations, normalization, stream
        self._in_flight: deque[tuple[CpuBatch, torch.Event]] = deque()

    def __call__(self, batches: Iterator[CpuBatch]) -> Generator[Batch, None, None]:
        """The batches on the device."""
        ready: tuple[Batch, torch.Event | None] | None = None
        try:
            for assembled in batches:
                # Queue the next copy first, then yield this batch, which does not wait for that copy.
                upcoming = self._begin(assembled)
                if ready is not None:
                    yield self._wait_for(*ready)
                ready = upcoming
            if ready is not None:
                yield self._wait_for(*ready)
        finally:
            self._release_copied(0)

    def _begin(self, assembled: CpuBatch) -> tuple[Batch, torch.Event | None]:
        """Queue a batch; returns it with the event that completes when it is on the device (None if it is already)."""
        with self._stream.activate() if self._stream else nullcontext():
            images, labels = self._copy(assembled.images), self._copy(assembled.labels)
            if assembled.draws is not None:
                for operation, drawn in zip(self._operations, assembled.draws.batch, strict=True):
                    images = operation.on_tensors(images, self._copy(torch.from_numpy(drawn)))
            if self._normalization is not None:
                images = normalized(images, *self._normalization)
            batch = images.contiguous(memory_format=torch.channels_last), labels
            if self._stream is None:
                return batch, None
            done = self._stream.record()
        # Keep a reference: without one, the buffer counts as free although the device still reads it.
        self._in_flight.append((assembled, done))
        self._release_copied(_IN_FLIGHT)
        return batch, done

    def _release_copied(self, max_in_flight: int) -> None:
        """Release the batches that have been copied; wait until at most ``max_in_flight`` others are left."""
        while self._in_flight and (len(self._in_flight) > max_in_flight or self._in_flight[0][1].query()):
            self._in_flight[0][1].synchronize()
            self._in_flight.popleft()

    def _copy(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self._device) if self._stream is None else self._stream.copy(tensor)

    def _wait_for(self, batch: Batch, done: torch.Event | None) -> Batch:
        if self._stream is not None and done is not None:
            self._stream.wait_for(batch, done)
        return batch
