"""Assembles batches from rows: decodes images or takes them from the cache, augments and normalises them."""

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
# Pixels are decoded, augmented and normalised in chunks of this many bytes.
_CHUNK_BYTES = 1 << 21
# Several passes over this many floats stay in the processor's cache.
_CACHED_VALUES = 1 << 19


class Normalization(NamedTuple):
    """Mean to subtract and standard deviation to divide by, for each channel on the scale 0 to 1."""

    mean: Triple
    std: Triple


@dataclass(frozen=True)
class Preparation:
    """How an image is prepared for a batch.

    Attributes:
        size: height and width, in pixels.
        view: the form of an image before random augmentation; None crops directly from the encoded image.
        transparency: what transparent pixels become when cropping from the encoded image.
        augment: the random augmentation.
        normalization: normalises to float32; None keeps uint8.
        finish: whether to flip, shift and normalise while assembling a batch; False leaves that to the device.
    """

    size: int
    view: Square | Shrunk | None
    transparency: Transparency
    augment: Augment
    normalization: Normalization | None
    finish: bool


class CpuBatch(NamedTuple):
    """A batch on the CPU.

    Attributes:
        images: (n, 3, size, size), channels last in memory, uint8 or normalised float32.
        labels: int64 (n,).
        draws: the augmentation that the device still has to apply; None if it is applied.
    """

    images: torch.Tensor
    labels: torch.Tensor
    draws: Draws | None


@dataclass
class Work:
    """Rows that are being assembled.

    Attributes:
        rows: the rows of the dataset.
        draws: their augmentation.
        images: (n, size, size, 3), to be filled: float32 if they are normalised here, else uint8.
        good: which rows could be decoded.
    """

    rows: Indices
    draws: Draws
    images: NDArray[Any]
    good: Mask


ReadEncoded = Callable[[Indices], Iterator[memoryview | None]]
"""Takes positions among the rows of a work, in ascending order, and yields the encoded image of each as it is read;
None if the cache has the row by now."""


class Assembler:
    """Assembles batches; safe to use from many threads.

    Args:
        labels: the class index of each row of the dataset, int64.
        preparation: how to prepare the images.
        key: the random key, derived from the seeds.
        cache: stores the views.
        on_bad: called with a row that cannot be decoded and the reason; may raise.
        buffers: the memory for the images.
        meter: measures the time.
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
        """Allocate memory for these rows and draw their augmentation."""
        buffers, kind = (
            (self._buffers.pixels, np.uint8) if self._factors is None else (self._buffers.floats, np.float32)
        )
        images = buffers.empty((len(rows), self.size, self.size, 3), kind)
        return Work(rows, self._preparation.augment.draw(self._key, rows), images, np.ones(len(rows), dtype=bool))

    def fill(self, work: Work, part: slice, encoded: ReadEncoded) -> None:
        """Fill a part of the images; other threads may fill other parts at the same time.

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
        """Fill a few images: cached ones from the cache, missing ones by decoding."""
        images, draws = work.images[part], work.draws.of(part)
        pixels = images if self._factors is None else self._buffers.pixels.empty(images.shape, np.uint8)
        if self._cache is not None and isinstance(self.view, Square) and there.all():
            np.take(self._cache.square, work.rows[part], axis=0, out=pixels, mode="clip")
        else:
            encoded = [None if cached else next(missing, None) for cached in there.tolist()]
            with self._meter.timed("decoding"):
                self._fill_views(pixels, work, part, encoded)
        if self._preparation.finish:
            for operation, drawn in zip(self._operations, draws.batch, strict=True):
                operation.on_pixels(pixels, drawn)
            if self._factors is not None:
                _normalize(pixels, *self._factors, torch.from_numpy(images))

    def batches(self, work: Work, sizes: list[int]) -> list[CpuBatch]:
        """The batches, of the given sizes minus the rows that could not be decoded."""
        rows, draws, good = work.rows, work.draws, work.good
        images = torch.from_numpy(work.images)
        if not good.all():
            sizes = [int(part.sum()) for part in np.split(good, np.cumsum(sizes)[:-1])]
            rows, draws, images = rows[good], draws.of(good), images[torch.from_numpy(good)]
        labels = torch.from_numpy(self._labels[rows])
        return [
            CpuBatch(
                images[end - size : end].permute(0, 3, 1, 2),
                labels[end - size : end],
                None if self._preparation.finish else draws.of(slice(end - size, end)),
            )
            for size, end in zip(sizes, np.cumsum(sizes).tolist(), strict=True)
        ]

    def _fill_views(self, pixels: Pixels, work: Work, part: slice, encoded: list[memoryview | None]) -> None:
        """Fill the pixels of a part from its encoded images, and from the cache where there is none."""
        crop = self._preparation.augment.resized_crop
        rows = work.rows[part].tolist()
        for number, (row, data, out) in enumerate(zip(rows, encoded, pixels, strict=True), part.start):
            try:
                view = self._view_of(row, data)
                if crop:
                    random_crop(view, work.draws.crop[number], crop, self.size, out, self._preparation.transparency)
                else:
                    out[...] = view
            except UndecodableImageError as error:
                self._on_bad(row, error)
                work.good[number] = False

    def _view_of(self, row: int, data: memoryview | None) -> Pixels | memoryview:
        """The view of an image, also stored in the cache; the encoded image if no view is configured."""
        if data is None:
            if self._cache is None or not self._cache.has(np.array([row])).all():
                raise LookupError(f"row {row} has not been read")
            return self._cache.get(row)
        if self.view is None:
            return data
        view = self.view.of(data)
        if self._cache is not None:
            self._cache.put(row, view)
        return view


def _normalize(images: Pixels, scale: torch.Tensor, shift: torch.Tensor, out: torch.Tensor) -> None:
    """Write ``image * scale + shift`` to ``out``, in chunks that stay in the processor's cache."""
    values, pixels = out.view(-1, len(scale)), torch.from_numpy(images).view(-1, len(scale))
    step = max(_CACHED_VALUES // len(scale), 1)
    for start in range(0, len(values), step):
        part = values[start : start + step].copy_(pixels[start : start + step])
        torch.addcmul(shift, part, scale, out=part)
