"""The batches of one epoch: which rows they hold, and threads that assemble them ahead."""

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from lance_pipeline.freed_memory import give_back_freed_memory, share_freed_memory
from lance_pipeline.loader.assembly import Assembled, Assembler, Work
from lance_pipeline.loader.buffers import Allocate, BatchBuffers
from lance_pipeline.loader.cache import PixelCache
from lance_pipeline.loader.load_meter import LoadMeter
from lance_pipeline.loader.order import Order
from lance_pipeline.loader.read_ahead import WindowReader
from lance_pipeline.loader.row_metadata import StoredImages
from lance_pipeline.loader.serial import one_thread, stay_one_thread
from lance_pipeline.loader.views import Square
from lance_pipeline.storage.columns import Indices

# To copy so many bytes from a whole cache takes less time than handing them from thread to thread.
_LIGHT_BYTES = 4 << 20
# So many images at a time take less than a batch at a time.
_GROUP_ROWS = 512
# So many bytes of decoded images are worth a thread of their own.
_PART_BYTES = 1 << 20


@dataclass(frozen=True)
class Share:
    """What one of several processes gets of each global batch: every ``of``-th row, beginning with the ``rank``-th.

    Raises:
        ValueError: there is no such process, or nothing in a batch.
    """

    batch_size: int
    rank: int
    of: int

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.of:
            raise ValueError(
                f"rank {self.rank} of world_size {self.of}: ranks count from 0 and are less than world_size"
            )
        if self.batch_size < 1:
            raise ValueError(f"batch_size {self.batch_size}: a batch has at least 1 image")

    @property
    def most(self) -> int:
        """The most images that a process gets of a batch."""
        return -(-self.batch_size // self.of)

    def nbytes(self, size: int) -> int:
        """The bytes of its part of a batch of images of this height and width, before they are normalised."""
        return self.most * size**2 * 3

    def together(self, size: int) -> int:
        """How many batches are made together: of few small images, calls would cost as much as their work."""
        return max(min(_GROUP_ROWS // self.batch_size, _LIGHT_BYTES // self.nbytes(size)), 1)


def batch_buffers(share: Share, size: int, allocate: Allocate) -> BatchBuffers:
    """The memory for batches of images of this height and width, or for as many of them as are made together."""
    return BatchBuffers.of(share.together(size) * share.nbytes(size), allocate)


class EpochBatches:
    """Assembles the batches of an epoch.

    Args:
        stored: the images.
        order: in which they come.
        share: what this process gets of them.
        assembler: makes the batches.
        cache: what need not be read.
        threads: how many batches are assembled at the same time.
        meter: counts the time.
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

    def of(self, numbers: Sequence[int]) -> Iterator[Assembled]:
        """The batches of these numbers, which ascend, in their order.

        Raises:
            InputError: an image cannot be decoded, or is not what was ingested.
        """
        size, together = self.assembler.size, self._share.together(self.assembler.size)
        groups = [numbers[start : start + together] for start in range(0, len(numbers), together)]
        # Squares are only copied; of other views crops are still to be taken.
        copied = isinstance(self.assembler.view, Square) and self._share.nbytes(size) <= _LIGHT_BYTES
        if copied and self._cache is not None and self._cache.complete:
            return self._at_once(groups)
        return self._ahead(groups)

    def _at_once(self, groups: Sequence[Sequence[int]]) -> Iterator[Assembled]:
        """The batches of each group, assembled when the first of them is asked for."""
        try:
            for numbers in groups:
                with self._meter.timed("waiting"), one_thread():
                    group = _Group(self, numbers)
                    group.fill(slice(None))
                    batches = group.batches()
                self._forget_until(numbers[-1])
                yield from self._counted(batches)
        finally:
            self._close()

    def _ahead(self, groups: Sequence[Sequence[int]]) -> Iterator[Assembled]:
        """The batches of each group, assembled by threads before they are asked for."""
        count = self._share.most * max(map(len, groups), default=0)
        # Several threads at one batch hold less memory than each at its own, and the first batch is there sooner.
        parts = min(self._threads, max(count * self.assembler.size**2 * 3 // _PART_BYTES, 1))
        step, most, waiting = max(-(-count // parts), 1), self._threads // parts + 1, deque(groups)
        share_freed_memory()
        with ThreadPoolExecutor(self._threads, "assemble", stay_one_thread) as pool:
            ahead: deque[tuple[_Group, list[Future[None]]]] = deque()
            try:
                while waiting or ahead:
                    while waiting and len(ahead) < most:
                        group = _Group(self, waiting.popleft())
                        slices = [slice(start, start + step) for start in range(0, count, step)]
                        ahead.append((group, [pool.submit(group.fill, part) for part in slices]))
                    group, futures = ahead.popleft()
                    with self._meter.timed("waiting"):
                        # The first error of any part.
                        _ = [future.result() for future in futures]
                    self._forget_until(group.numbers[-1])
                    batches = group.batches()
                    del group, futures
                    yield from self._counted(batches)
            finally:
                for _, futures in ahead:
                    for future in futures:
                        future.cancel()
                self._close()

    def _close(self) -> None:
        """End the reading."""
        if self._reader is not None:
            self._reader.close()
            # Or the threads of the next epoch would leave as much behind again.
            give_back_freed_memory()

    def _counted(self, batches: list[Assembled]) -> Iterator[Assembled]:
        """The batches, each let go of before the next."""
        self._meter.count("images", sum(len(batch.labels) for batch in batches))
        batches.reverse()
        while batches:
            yield batches.pop()
            self._meter.passed()

    def located(self, numbers: Sequence[int]) -> tuple[list[int], Indices, Indices]:
        """Of this process's part of some global batches the sizes, the rows and the window of each row."""
        size, rows = self._share.batch_size, self._order.rows
        parts = [
            np.arange(number * size + self._share.rank, min((number + 1) * size, rows), self._share.of, dtype=np.int64)
            for number in numbers
        ]
        places = np.concatenate(parts)
        windows = np.searchsorted(self._order.starts, places, side="right") - 1
        chosen = np.empty(len(places), np.int64)
        for window in range(windows[0], windows[-1] + 1) if len(places) else ():
            here = windows == window
            chosen[here] = self._rows_in(window)[places[here] - self._order.starts[window]]
        return [len(part) for part in parts], chosen, windows

    def encoded(self, rows: Indices, windows: Indices) -> Iterator[memoryview | None]:
        """The encoded images of some rows, given the window of each, in ascending order.

        What is read later need not be waited for before the first is decoded. None stands for a row that came into
        the cache before its window was read.
        """
        for window in np.unique(windows).tolist():
            yield from self._windows[window].take(rows[windows == window])

    @property
    def _windows(self) -> WindowReader:
        """The reader, made when the first row is missing in the cache."""
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
        rows = self._rows_in(window)[places % self._share.batch_size % self._share.of == self._share.rank]
        return rows if self._cache is None else rows[~self._cache.has(rows)]

    def _forget_until(self, number: int) -> None:
        """Let go of windows that no later batch needs."""
        if self._reader is not None:
            self._reader.forget_before(self._order.window_of((number + 1) * self._share.batch_size))


class _Group:
    """Batches that are assembled together; whichever thread comes first begins them."""

    def __init__(self, epoch: EpochBatches, numbers: Sequence[int]) -> None:
        self._epoch, self.numbers = epoch, numbers
        self._lock = threading.Lock()

    def fill(self, part: slice) -> None:
        """Fill in a part of the rows."""
        with self._lock:
            work = self._work
        self._epoch.assembler.fill(work, part, self._encoded)

    def batches(self) -> list[Assembled]:
        """The batches, once all parts are filled."""
        return self._epoch.assembler.batches(self._work, self._located[0])

    @cached_property
    def _located(self) -> tuple[list[int], Indices, Indices]:
        return self._epoch.located(self.numbers)

    @cached_property
    def _work(self) -> Work:
        return self._epoch.assembler.begin(self._located[1])

    def _encoded(self, places: Indices) -> Iterator[memoryview | None]:
        _, rows, windows = self._located
        return self._epoch.encoded(rows[places], windows[places])
