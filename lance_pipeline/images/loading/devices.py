"""Batches to a device: copied from pinned memory beside the computation, finished there."""

from collections.abc import Iterator

import torch

from lance_pipeline.images.augmentation import Augment, flipped, normalized, pad_cropped
from lance_pipeline.images.loading.assembly import Assembled, Normalization

Batch = tuple[torch.Tensor, torch.Tensor]


class Upload:
    """Copies batches to a device one ahead, and does there what is left to do.

    On CUDA copies run on a stream of their own, beside the computation.

    Args:
        device: other than the CPU.
        augment: whose draws the batches carry.
        normalization: to float32; None leaves uint8.
    """

    def __init__(self, device: torch.device, augment: Augment, normalization: Normalization | None) -> None:
        self._device, self._augment, self._normalization = device, augment, normalization
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, batches: Iterator[Assembled]) -> Iterator[Batch]:
        """The batches on the device."""
        ready: tuple[Batch, torch.Event | None] | None = None
        for assembled in batches:
            batch = self._begin(assembled)
            # The stream goes on with the next copy, which this batch must not wait for.
            upcoming = batch, None if self._stream is None else self._stream.record_event()
            if ready is not None:
                yield self._arrived(*ready)
            ready = upcoming
        if ready is not None:
            yield self._arrived(*ready)

    def _begin(self, assembled: Assembled) -> Batch:
        with torch.cuda.stream(self._stream):
            images, labels = self._copied(assembled.images), self._copied(assembled.labels)
            draws = assembled.draws
            if draws is not None and self._augment.padding:
                images = pad_cropped(images, self._augment.padding, self._copied(torch.from_numpy(draws.corners)))
            if draws is not None and self._augment.flip:
                images = flipped(images, self._copied(torch.from_numpy(draws.flip)))
            if self._normalization is not None:
                images = normalized(images, *self._normalization)
            return images.contiguous(memory_format=torch.channels_last), labels

    def _copied(self, tensor: torch.Tensor) -> torch.Tensor:
        if self._stream is None:
            return tensor.to(self._device)
        return tensor.pin_memory().to(self._device, non_blocking=True)

    def _arrived(self, batch: Batch, sent: torch.Event | None) -> Batch:
        if sent is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_event(sent)
            for tensor in batch:
                # Or its memory could be used again while the computation still reads it.
                tensor.record_stream(current)
        return batch
