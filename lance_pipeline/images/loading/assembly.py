"""Rows to a batch: decoded or taken from the cache, augmented, normalised."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from lance_pipeline.images.augmentation import Augment, Draws, Pixels, flip_pixels, pad_crop_pixels
from lance_pipeline.images.columns import Indices, Mask
from lance_pipeline.images.loading.buffers import Buffers
from lance_pipeline.images.loading.cache import PixelCache
from lance_pipeline.images.loading.meter import Meter
from lance_pipeline.images.loading.views import Shrunk, Square, random_crop
from lance_pipeline.images.rejection import UndecodableImageError

Triple = tuple[float, float, float]
# Of more values at once torch makes work for several threads, of which those that assemble have enough.
_SERIAL_VALUES = (1 << 15) - 1
# Several passes over so many floats find them in the processor's cache.
_SHARED_VALUES = 1 << 18


class Normalization(NamedTuple):
    """Mean and standard deviation to subtract and to divide by, of each channel on the scale 0 to 1."""

    mean: Triple
    std: Triple


class Assembled(NamedTuple):
    """A batch on the CPU.

    Attributes:
        images: (n, 3, size, size), channels last in memory, uint8 or normalised float32.
        labels: int64 (n,).
        draws: what is still to be done to them, on the device; None where it is done.
    """

    images: torch.Tensor
    labels: torch.Tensor
    draws: Draws | None


class Assembler:
    """Makes batches, from many threads at once.

    Args:
        labels: the class index of each row of the dataset, int64.
        size: height and width of the images, in pixels.
        view: what an image is before anything random happens; None crops straight from the encoded image.
        cache: keeps the views.
        augment: what is done at random.
        key: stands for the seeds of what is drawn.
        normalization: to float32; None leaves uint8.
        finish: whether to flip, shift and normalise here, and not on a device.
        on_bad: called with a row that cannot be decoded and the reason; may raise.
        buffers: the memory for the images.
        meter: counts the time.
    """

    def __init__(
        self,
        *,
        labels: Indices,
        size: int,
        view: Square | Shrunk | None,
        cache: PixelCache | None,
        augment: Augment,
        key: int,
        normalization: Normalization | None,
        finish: bool,
        on_bad: Callable[[int, UndecodableImageError], None],
        buffers: Buffers,
        meter: Meter,
    ) -> None:
        self._labels, self._buffers = labels, buffers
        self._size, self._view, self._cache, self._meter = size, view, cache, meter
        self._augment, self._key, self._finish, self._on_bad = augment, key, finish, on_bad
        self._factors = None
        if normalization is not None:
            mean, std = (torch.tensor(values).repeat(size) for values in normalization)
            # As augmentation.normalized computes it, to the last bit.
            self._factors = 1 / (255 * std), mean / std

    def nbytes(self, count: int) -> int:
        """The size of a batch of so many images, before it is normalised."""
        return count * self._size**2 * 3

    def batches(
        self, rows: Indices, sizes: list[int], encoded: Callable[[Indices], list[bytes]], *, alone: bool
    ) -> list[Assembled]:
        """The batches of these rows.

        Args:
            rows: of the dataset, batch after batch.
            sizes: of the batches; they are smaller where rows are left out.
            encoded: gives the bytes of those of the rows that the cache lacks, by their places among ``rows``.
            alone: that no other batches are being assembled.

        Raises:
            InputError: (from ``on_bad``) an image cannot be decoded.
        """
        draws = self._augment.draw(self._key, rows)
        there = np.zeros(len(rows), dtype=bool) if self._cache is None else self._cache.has(rows)
        if self._cache is not None and isinstance(self._view, Square) and there.all():
            images = self._empty(len(rows))
            np.take(self._cache.square, rows, axis=0, out=images, mode="clip")
        else:
            images, good = self._decoded(rows, draws, there, encoded)
            if not good.all():
                sizes = [int(part.sum()) for part in np.split(good, np.cumsum(sizes)[:-1])]
                rows, images, draws = rows[good], images[good], draws.of(good)
        tensor = self._finished(images, draws, alone=alone) if self._finish else torch.from_numpy(images)
        labels = torch.from_numpy(self._labels[rows])
        ends = np.cumsum(sizes).tolist()
        return [
            Assembled(
                tensor[end - size : end].permute(0, 3, 1, 2),
                labels[end - size : end],
                None if self._finish else draws.of(slice(end - size, end)),
            )
            for size, end in zip(sizes, ends, strict=True)
        ]

    def _finished(self, images: Pixels, draws: Draws, *, alone: bool) -> torch.Tensor:
        """The images (n, h, w, 3), shifted, mirrored and normalised."""
        if self._augment.padding:
            pad_crop_pixels(images, self._augment.padding, draws.corners)
        if self._augment.flip:
            flip_pixels(images, draws.flip)
        if self._factors is None:
            return torch.from_numpy(images)
        if alone:
            # torch takes memory that is warm, and shares the work between the cores.
            result, most = torch.empty(images.shape), _SHARED_VALUES
        else:
            result, most = torch.from_numpy(self._buffers.empty(images.shape, np.float32)), _SERIAL_VALUES
        _normalized(images, *self._factors, result, most)
        return result

    def _decoded(
        self, rows: Indices, draws: Draws, there: Mask, encoded: Callable[[Indices], list[bytes]]
    ) -> tuple[Pixels, Mask]:
        """The images, and which of them could be decoded."""
        images = self._empty(len(rows))
        good = np.ones(len(rows), dtype=bool)
        missing = np.flatnonzero(~there)
        data = dict(zip(missing.tolist(), encoded(missing), strict=True))
        with self._meter.timed("decoding"):
            for place, row in enumerate(rows.tolist()):
                try:
                    view = self._view_of(row, data.get(place))
                    if self._augment.resized_crop:
                        view = random_crop(view, draws.crop[place], self._augment.resized_crop, self._size)
                    images[place] = view
                except UndecodableImageError as error:
                    self._on_bad(row, error)
                    good[place] = False
        return images, good

    def _empty(self, count: int) -> Pixels:
        return self._buffers.empty((count, self._size, self._size, 3), np.uint8)

    def _view_of(self, row: int, data: bytes | None) -> Pixels | bytes:
        """The view of a row, from the cache if there are no ``data``; without a view the data themselves."""
        if data is None and self._cache is not None:
            return self._cache.get(row)
        if self._view is None or data is None:
            return data or b""
        view = self._view.of(data)
        if self._cache is not None:
            self._cache.put(row, view)
        return view


def _normalized(images: Pixels, scale: torch.Tensor, shift: torch.Tensor, out: torch.Tensor, most: int) -> None:
    """Write ``image * scale - shift`` to ``out``, at most so many values at once."""
    values, pixels = out.view(-1, len(scale)), torch.from_numpy(images).view(-1, len(scale))
    step = max(most // len(scale), 1)
    for start in range(0, len(values), step):
        part = values[start : start + step]
        part.copy_(pixels[start : start + step]).mul_(scale).sub_(shift)
