"""Reads encoded images from a Lance dataset ahead, window by window."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pyarrow as pa

from lance_pipeline.loader.load_meter import LoadMeter
from lance_pipeline.loader.row_metadata import StoredImages
from lance_pipeline.storage.columns import Indices
from lance_pipeline.storage.object_store import is_remote

# Parts per window, parts read in parallel, and windows read ahead. Requests to an object store mostly wait. Larger
# parts of local files would each get fresh memory from the system, which makes reading take four times as long.
_LOCAL, _REMOTE = (8, 2, 1), (16, 16, 2)


class EncodedRows:
    """The encoded images of some rows.

    Args:
        rows: the rows, in ascending order.
        images: their images, as consecutive columns of binary or large_binary.

    Attributes:
        images: the bytes of each image, not copied; none where it is null.
    """

    def __init__(self, rows: Indices, images: list[pa.ChunkedArray]) -> None:
        self._rows = rows
        self.images: list[memoryview] = []
        for chunk in [chunk for column in images for chunk in column.chunks if len(chunk)]:
            # Slices the buffer by offsets: ``as_py`` takes a hundred times as long.
            _, offsets, buffer = chunk.buffers()
            kind = np.int64 if pa.types.is_large_binary(chunk.type) else np.int32
            bounds = np.frombuffer(offsets, kind)[chunk.offset : chunk.offset + len(chunk) + 1].tolist()
            # Arrow's bytes are signed, and would not compare equal to unsigned ones.
            data = memoryview(buffer or b"").cast("B")
            self.images += [data[begin:end] for begin, end in pairwise(bounds)]

    def take(self, rows: Indices) -> list[memoryview | None]:
        """The images of some rows; None for rows that are not included."""
        positions = np.searchsorted(self._rows, rows)
        found = np.append(self._rows, -1)[positions] == rows
        places = zip(positions.tolist(), found.tolist(), strict=True)
        return [self.images[position] if there else None for position, there in places]


class WindowReader:
    """Reads windows of rows, and the following windows ahead of time.

    Args:
        stored: the stored images.
        rows_of: returns the wanted rows of a window; none after the last window.
        meter: measures the time.
    """

    def __init__(self, stored: StoredImages, rows_of: Callable[[int], Indices], meter: LoadMeter) -> None:
        self._stored, self._rows_of, self._meter = stored, rows_of, meter
        self._parts, threads, self._ahead = _REMOTE if is_remote(stored.dataset.uri) else _LOCAL
        self._parts_pool = ThreadPoolExecutor(threads, thread_name_prefix="read")
        self._windows_pool = ThreadPoolExecutor(self._ahead + 1, thread_name_prefix="windows")
        self._windows: dict[int, Future[EncodedRows]] = {}
        self._lock = threading.Lock()

    def __getitem__(self, window: int) -> EncodedRows:
        """Wait for the images of a window.

        Raises:
            DamagedError: the images cannot be read, or are not those that were ingested.
        """
        with self._lock:
            for number in range(window, window + self._ahead + 1):
                if number not in self._windows:
                    self._windows[number] = self._begin(number)
            future = self._windows[window]
        return future.result()

    def forget_before(self, window: int) -> None:
        """Release the windows before this one."""
        with self._lock:
            for number in [number for number in self._windows if number < window]:
                del self._windows[number]

    def close(self) -> None:
        """Stop reading; waits for requests that have begun."""
        for pool in (self._windows_pool, self._parts_pool):
            pool.shutdown(cancel_futures=True)

    def _begin(self, window: int) -> Future[EncodedRows]:
        rows = np.sort(self._rows_of(window))
        parts = [self._parts_pool.submit(self._read, part) for part in np.array_split(rows, self._parts) if len(part)]
        return self._windows_pool.submit(self._join_parts, rows, parts)

    def _join_parts(self, rows: Indices, parts: list[Future[pa.ChunkedArray]]) -> EncodedRows:
        """Wait for the parts of a window, and check its images."""
        encoded = EncodedRows(rows, [part.result() for part in parts])
        self._stored.require_intact(rows, encoded.images)
        return encoded

    def _read(self, rows: Indices) -> pa.ChunkedArray:
        with self._meter.timed("reading"):
            return self._stored.images.take(rows)
