"""The batches of one epoch: the rows that they hold, and the threads that assemble them ahead."""

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from lance_pipeline.freed_memory import give_back_freed_memory
from lance_pipeline.loader.assembly import Assembler, CpuBatch, Work
from lance_pipeline.loader.buffers import Allocate, BatchBuffers
from lance_pipeline.loader.cache import PixelCache
from lance_pipeline.loader.load_meter import LoadMeter
from lance_pipeline.loader.order import Order
from lance_pipeline.loader.read_ahead import WindowReader
from lance_pipeline.loader.row_metadata import StoredImages
from lance_pipeline.loader.serial import limit_to_one_thread, one_thread
from lance_pipeline.loader.views import Square
from lance_pipeline.storage.columns import Indices

# Copying up to this many bytes from a complete cache is faster than passing them between threads.
_LIGHT_BYTES = 4 << 20
# Small batches are assembled in groups of up to this many images, which costs fewer calls.
_GROUP_ROWS = 512
# The bytes of decoded images that are worth a thread.
_PART_BYTES = 1 << 20


@dataclass(frozen=True)
class Share:
    """The share of one process in each global batch: every ``world_size``-th row, starting with the ``rank``-th.

    All processes have the same number of batches, and at least one row of each: a last batch with fewer rows than
    processes is dropped.

    Attributes:
        batch_size: the number of rows in a global batch.
        rank: the number of this process.
        world_size: the number of processes.
        drop_last: whether to drop every last batch that is smaller than the others.

    Raises:
        ValueError: ``rank`` is not below ``world_size``, or ``batch_size`` is below 1 or ``world_size``.
    """

    batch_size: int
    rank: int
    world_size: int
    drop_last: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise ValueError(
                f"rank {self.rank} with world_size {self.world_size}: rank must be from 0 to world_size - 1"
            )
        if self.batch_size < 1:
            raise ValueError(f"batch_size {self.batch_size}: a batch must have at least 1 image")
        if self.batch_size < self.world_size:
            raise ValueError(
                f"batch_size {self.batch_size} with world_size {self.world_size}: batch_size counts the images of all "
                "ranks, so it must be at least world_size"
            )

    @property
    def max_images(self) -> int:
        """The maximum number of images that a process gets of a batch."""
        return -(-self.batch_size // self.world_size)

    def batches(self, rows: int) -> int:
        """The number of batches in an epoch of this many rows."""
        full, rest = divmod(rows, self.batch_size)
        return full + (rest >= self.world_size and not self.drop_last)

    def used(self, rows: int) -> int:
        """How many of this many rows are in a batch; the last ones in the epoch's order may not be."""
        return min(self.batches(rows) * self.batch_size, rows)

    def nbytes(self, size: int) -> int:
        """The bytes of the process's part of a batch of images of this height and width, before normalisation."""
        return self.max_images * size**2 * 3

    def group_size(self, size: int) -> int:
        """The number of batches to assemble as a group: with few small images, calls cost as much as their work."""
        return max(min(_GROUP_ROWS // self.batch_size, _LIGHT_BYTES // self.nbytes(size)), 1)


def batch_buffers(share: Share, size: int, allocate: Allocate) -> BatchBuffers:
    """The memory for groups of batches of images of this height and width."""
    return BatchBuffers.of(share.group_size(size) * share.nbytes(size), allocate)


class EpochBatches:
    """Assembles the batches of an epoch.

    Args:
        stored: the stored images.
        order: the order of the rows.
        share: this process's share of each batch.
        assembler: assembles the batches.
        cache: the cached images, which are not read.
        threads: the number of threads that assemble batches.
        meter: measures the time.
    """

    def __init__(
        self,
        stored: StoredImages,
        order: Order,
        share: Share,
        assembler: Assembler,
        cache: PixelCache | None,
        threads: int,
        meter: LoadMeter,
    ) -> None:
        self._stored, self._order, self._share = stored, order, share
        self.assembler, self._cache, self._threads, self._meter = assembler, cache, threads, meter
        self._rows_in = lru_cache(maxsize=8)(order.rows_in)
        self._reader: WindowReader | None = None
        self._lock = threading.Lock()

    def of(self, numbers: Sequence[int]) -> Iterator[CpuBatch]:
        """The batches with these numbers, which must ascend.

        Raises:
            InputError: an image cannot be decoded, or is not what was ingested.
        """
        size, step = self.assembler.size, self._share.group_size(self.assembler.size)
        groups = [numbers[start : start + step] for start in range(0, len(numbers), step)]
        # Squares are only copied; other views must still be cropped.
        light = isinstance(self.assembler.view, Square) and self._share.nbytes(size) <= _LIGHT_BYTES
        if light and self._cache is not None and self._cache.complete:
            return self._assemble_on_demand(groups)
        return self._assemble_ahead(groups)

    def _assemble_on_demand(self, groups: Sequence[Sequence[int]]) -> Iterator[CpuBatch]:
        """The batches of each group, assembled when the first of them is requested."""
        try:
            for numbers in groups:
                with self._meter.timed("waiting"), one_thread():
                    group = _Group(self, numbers)
                    group.fill(slice(None))
                    batches = group.batches()
                self._forget_until(numbers[-1])
                yield from self._count(batches)
        finally:
            self._close()

    def _assemble_ahead(self, groups: Sequence[Sequence[int]]) -> Iterator[CpuBatch]:
        """The batches of each group, assembled by threads before they are requested."""
        count = self._share.max_images * max(map(len, groups), default=0)
        # Several threads per batch need less memory than one batch per thread, and the first batch is ready sooner.
        parts = min(self._threads, max(count * self.assembler.size**2 * 3 // _PART_BYTES, 1))
        step, max_ahead, waiting = max(-(-count // parts), 1), self._threads // parts + 1, deque(groups)
        with ThreadPoolExecutor(self._threads, "assemble", limit_to_one_thread) as pool:
            ahead: deque[tuple[_Group, list[Future[None]]]] = deque()
            try:
                while waiting or ahead:
                    while waiting and len(ahead) < max_ahead:
                        group = _Group(self, waiting.popleft())
                        slices = [slice(start, start + step) for start in range(0, count, step)]
                        ahead.append((group, [pool.submit(group.fill, part) for part in slices]))
                    group, futures = ahead.popleft()
                    with self._meter.timed("waiting"):
                        # Raises the first error of any part.
                        _ = [future.result() for future in futures]
                    self._forget_until(group.numbers[-1])
                    batches = group.batches()
                    del group, futures
                    yield from self._count(batches)
            finally:
                for _, futures in ahead:
                    for future in futures:
                        future.cancel()
                self._close()

    def _close(self) -> None:
        """Stop reading."""
        if self._reader is not None:
            self._reader.close()
            # Otherwise the threads of the next epoch would add as much freed memory again.
            give_back_freed_memory()

    def _count(self, batches: list[CpuBatch]) -> Iterator[CpuBatch]:
        """Count and yield the batches; each is released before the next."""
        self._meter.count("images", sum(len(batch.labels) for batch in batches))
        batches.reverse()
        while batches:
            yield batches.pop()
            self._meter.batch_used()

    def locate(self, numbers: Sequence[int]) -> tuple[list[int], Indices, Indices]:
        """The sizes, the rows, and the window of each row, for this process's part of some global batches."""
        size, rows = self._share.batch_size, self._order.rows
        parts = [
            np.arange(
                number * size + self._share.rank, min((number + 1) * size, rows), self._share.world_size, dtype=np.int64
            )
            for number in numbers
        ]
        places = np.concatenate(parts)
        windows = np.searchsorted(self._order.starts, places, side="right") - 1
        chosen = np.empty(len(places), np.int64)
        for window in range(windows[0], windows[-1] + 1) if len(places) else ():
            here = windows == window
            chosen[here] = self._rows_in(window)[places[here] - self._order.starts[window]]
        return [len(part) for part in parts], chosen, windows

    def read_encoded(self, rows: Indices, windows: Indices) -> Iterator[memoryview | None]:
        """The encoded images of some rows, given the window of each, in ascending order.

        They are yielded as they are read, so the first can be decoded before the last is read. None stands for a row
        that was cached before its window was read.
        """
        for window in np.unique(windows).tolist():
            yield from self._windows[window].take(rows[windows == window])

    @property
    def _windows(self) -> WindowReader:
        """The reader, created when the first row is missing in the cache."""
        with self._lock:
            if self._reader is None:
                self._reader = WindowReader(self._stored, self._missing_in, self._meter)
            return self._reader

    def _missing_in(self, window: int) -> Indices:
        """The rows of a window that this process needs and the cache lacks."""
        starts = self._order.starts
        if window + 1 >= len(starts):
            return np.empty(0, np.int64)
        places = np.arange(starts[window], starts[window + 1])
        mine = places % self._share.batch_size % self._share.world_size == self._share.rank
        rows = self._rows_in(window)[mine & (places < self._share.used(self._order.rows))]
        return rows if self._cache is None else rows[~self._cache.has(rows)]

    def _forget_until(self, number: int) -> None:
        """Release the windows that no later batch needs."""
        if self._reader is not None:
            self._reader.forget_before(self._order.window_of((number + 1) * self._share.batch_size))


class _Group:
    """Batches that are assembled together; the first thread that needs them begins them."""

    def __init__(self, epoch: EpochBatches, numbers: Sequence[int]) -> None:
        self._epoch, self.numbers = epoch, numbers
        self._lock = threading.Lock()

    def fill(self, part: slice) -> None:
        """Fill a part of the rows."""
        with self._lock:
            work = self._work
        self._epoch.assembler.fill(work, part, self._read_encoded)

    def batches(self) -> list[CpuBatch]:
        """The batches, once all parts are filled."""
        return self._epoch.assembler.batches(self._work, self._located[0])

    @cached_property
    def _located(self) -> tuple[list[int], Indices, Indices]:
        return self._epoch.locate(self.numbers)

    @cached_property
    def _work(self) -> Work:
        return self._epoch.assembler.begin(self._located[1])

    def _read_encoded(self, places: Indices) -> Iterator[memoryview | None]:
        _, rows, windows = self._located
        return self._epoch.read_encoded(rows[places], windows[places])
