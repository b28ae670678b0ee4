"""Rows to a batch: decoded or taken from the cache, augmented, normalised."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from lance_pipeline.imaging.rejection import UndecodableImageError
from lance_pipeline.loader.augmentation import (
    Augment,
    Draws,
    Pixels,
    normalizing_factors,
)
from lance_pipeline.loader.buffers import BatchBuffers
from lance_pipeline.loader.cache import PixelCache
from lance_pipeline.loader.load_meter import LoadMeter
from lance_pipeline.loader.views import Shrunk, Square, random_crop
from lance_pipeline.storage.columns import Indices, Mask
from lance_pipeline.storage.transparency import Transparency

Triple = tuple[float, float, float]
# So many bytes of pixels are decoded, turned and normalised before the next.
_CHUNK_BYTES = 1 << 21
# Several passes over so many floats find them in the processor's cache.
_CACHED_VALUES = 1 << 19


class Normalization(NamedTuple):
    """Mean and standard deviation to subtract and to divide by, of each channel on the scale 0 to 1."""

    mean: Triple
    std: Triple


@dataclass(frozen=True)
class Preparation:
    """What an image becomes on its way to a batch.

    Attributes:
        size: height and width, in pixels.
        view: what an image is before anything random happens; None crops straight from the encoded image.
        transparency: what transparent pixels become in the latter case.
        augment: what is done at random.
        normalization: to float32; None leaves uint8.
        finish: whether to flip, shift and normalise while a batch is assembled, and not on a device.
    """

    size: int
    view: Square | Shrunk | None
    transparency: Transparency
    augment: Augment
    normalization: Normalization | None
    finish: bool


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


@dataclass
class Work:
    """Rows that are being assembled.

    Attributes:
        rows: of the dataset.
        draws: what happens to them.
        images: (n, size, size, 3), to be filled: float32 where they are normalised here, else uint8.
        good: which rows could be decoded.
    """

    rows: Indices
    draws: Draws
    images: NDArray[Any]
    good: Mask


Encoded = Callable[[Indices], Iterator[memoryview | None]]
"""Asked for some places among the rows of a work, in ascending order, gives the bytes of one after the other, as they
are read; None where the cache has the row by now."""


class Assembler:
    """Makes batches, from many threads at once.

    Args:
        labels: the class index of each row of the dataset, int64.
        preparation: of the images.
        key: stands for the seeds of what is drawn.
        cache: keeps the views.
        on_bad: called with a row that cannot be decoded and the reason; may raise.
        buffers: the memory for the images.
        meter: counts the time.
    """

    def __init__(
        self,
        *,
        labels: Indices,
        preparation: Preparation,
        key: int,
        cache: PixelCache | None,
        on_bad: Callable[[int, UndecodableImageError], None],
        buffers: BatchBuffers,
        meter: LoadMeter,
    ) -> None:
        self._labels, self._key, self._cache, self._on_bad = labels, key, cache, on_bad
        self._buffers, self._meter = buffers, meter
        self._preparation, self._operations = preparation, preparation.augment.operations
        self.size, self.view = preparation.size, preparation.view
        self._factors = None
        if preparation.normalization is not None and preparation.finish:
            scale, shift = normalizing_factors(*preparation.normalization)
            self._factors = scale.repeat(self.size), shift.repeat(self.size)

    def begin(self, rows: Indices) -> Work:
        """The memory for these rows, and what happens to them."""
        buffers, kind = (
            (self._buffers.pixels, np.uint8) if self._factors is None else (self._buffers.floats, np.float32)
        )
        images = buffers.empty((len(rows), self.size, self.size, 3), kind)
        return Work(rows, self._preparation.augment.draw(self._key, rows), images, np.ones(len(rows), dtype=bool))

    def fill(self, work: Work, part: slice, encoded: Encoded) -> None:
        """Fill in some of the images; other threads may be at other parts.

        Raises:
            InputError: (from ``on_bad``) an image cannot be decoded.
        """
        start, stop, _ = part.indices(len(work.rows))
        rows = work.rows[start:stop]
        there = np.zeros(len(rows), dtype=bool) if self._cache is None else self._cache.has(rows)
        missing = encoded(start + np.flatnonzero(~there))
        step = max(_CHUNK_BYTES // (self.size**2 * 3), 1)
        for first in range(start, stop, step):
            chunk = slice(first, min(first + step, stop))
            self._fill(work, chunk, there[chunk.start - start : chunk.stop - start], missing)

    def _fill(self, work: Work, part: slice, there: Mask, missing: Iterator[memoryview | None]) -> None:
        """Fill in a few images: from the cache those that are there, decoded those that are missing."""
        images, draws = work.images[part], work.draws.of(part)
        pixels = images if self._factors is None else self._buffers.pixels.empty(images.shape, np.uint8)
        if self._cache is not None and isinstance(self.view, Square) and there.all():
            np.take(self._cache.square, work.rows[part], axis=0, out=pixels, mode="clip")
        else:
            encoded = [None if cached else next(missing, None) for cached in there.tolist()]
            with self._meter.timed("decoding"):
                self._put(pixels, work, part, encoded)
        if self._preparation.finish:
            for operation, drawn in zip(self._operations, draws.batch, strict=True):
                operation.on_pixels(pixels, drawn)
            if self._factors is not None:
                _normalize(pixels, *self._factors, torch.from_numpy(images))

    def batches(self, work: Work, sizes: list[int]) -> list[Assembled]:
        """The batches, which have ``sizes`` but for the rows that were left out."""
        rows, draws, good = work.rows, work.draws, work.good
        images = torch.from_numpy(work.images)
        if not good.all():
            sizes = [int(part.sum()) for part in np.split(good, np.cumsum(sizes)[:-1])]
            rows, draws, images = rows[good], draws.of(good), images[torch.from_numpy(good)]
        labels = torch.from_numpy(self._labels[rows])
        return [
            Assembled(
                images[end - size : end].permute(0, 3, 1, 2),
                labels[end - size : end],
                None if self._preparation.finish else draws.of(slice(end - size, end)),
            )
            for size, end in zip(sizes, np.cumsum(sizes).tolist(), strict=True)
        ]

    def _put(self, pixels: Pixels, work: Work, part: slice, encoded: list[memoryview | None]) -> None:
        """Fill in the pixels of a part from its encoded images: where there is none, from the cache."""
        crop = self._preparation.augment.resized_crop
        rows = work.rows[part].tolist()
        for number, (row, data, out) in enumerate(zip(rows, encoded, pixels, strict=True), part.start):
            try:
                view = self._seen(row, data)
                if crop:
                    random_crop(view, work.draws.crop[number], crop, self.size, out, self._preparation.transparency)
                else:
                    out[...] = view
            except UndecodableImageError as error:
                self._on_bad(row, error)
                work.good[number] = False

    def _seen(self, row: int, data: memoryview | None) -> Pixels | memoryview:
        """The view of an image, which the cache keeps; without a view the encoded image as it is."""
        if data is None:
            if self._cache is None or not self._cache.has(np.array([row])).all():
                raise LookupError(f"row {row} was not read")
            return self._cache.get(row)
        if self.view is None:
            return data
        view = self.view.of(data)
        if self._cache is not None:
            self._cache.put(row, view)
        return view


def _normalize(images: Pixels, scale: torch.Tensor, shift: torch.Tensor, out: torch.Tensor) -> None:
    """Write ``image * scale + shift`` to ``out``, in passes over so much as stays in the processor's cache."""
    values, pixels = out.view(-1, len(scale)), torch.from_numpy(images).view(-1, len(scale))
    step = max(_CACHED_VALUES // len(scale), 1)
    for start in range(0, len(values), step):
        part = values[start : start + step].copy_(pixels[start : start + step])
        torch.addcmul(shift, part, scale, out=part)
