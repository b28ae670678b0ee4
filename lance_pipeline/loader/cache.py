"""Decoded images in a memory-mapped file, shared by all processes of a machine and by later runs.

A cache is a folder whose name identifies its content. Any number of processes can fill it at the same time: they write
the same pixels, and after each row a digest of its pixels. A complete cache has a digest for each block of rows
instead. A process checks rows that it did not write itself against these digests, once, and decodes damaged rows
again. Deleting the folder is safe at any time.
"""

import errno
import fcntl
import glob
import hashlib
import json
import logging
import mmap
import os
import sys
from contextlib import suppress

import lance
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lance_pipeline.imaging.decoding import DECODERS
from lance_pipeline.loader.augmentation import Pixels
from lance_pipeline.loader.cache_digests import BlockDigests, RowDigests
from lance_pipeline.loader.cache_place import CachePlace, lock_folder
from lance_pipeline.loader.views import Square, View
from lance_pipeline.storage.columns import Indices, Mask
from lance_pipeline.storage.table_errors import reading

_log = logging.getLogger(__name__)
_PIXELS, _ROWS, _BLOCKS = "pixels.u8", "rows.u64", "blocks.u64"
# Increment this when the same image would give another view than before, or the files get another format.
_FORMAT = "2"
_BOOT = "/proc/sys/kernel/random/boot_id"


class NoCacheError(Exception):
    """The cache cannot be used; the message says why."""


class PixelCache:
    """The cached views of a dataset's images.

    Args:
        place: where caches are kept.
        dataset: the version of the dataset.
        view: the view of each image to cache.
        column: the column of the images.

    Attributes:
        path: the folder.

    Raises:
        NoCacheError: the cache would exceed the budget, the disk is full or read-only, or the dataset does not have the
            sizes of its images.
    """

    def __init__(self, place: CachePlace, dataset: lance.LanceDataset, view: View, column: str = "image") -> None:
        with reading(dataset.uri, dataset.version):
            self._shapes, self._starts = _layout(dataset, view)
        self._rows = dataset.count_rows()
        self.path = os.path.join(place.path, _key(dataset, view, column))
        try:
            # Without the lock, two processes could each make room by deleting the cache that the other is about to use.
            with lock_folder(place.path, fcntl.LOCK_EX):
                self._open(place)
        except OSError as error:
            raise NoCacheError(f"{self.path} cannot be used: {error.strerror or error}") from error

    @property
    def nbytes(self) -> int:
        """The size of the pixels."""
        return int(self._starts[-1])

    @property
    def square(self) -> Pixels:
        """All images as one array (rows, height, width, 3), if all have one size."""
        return self._pixels.reshape(self._rows, *self._shapes[0], 3)

    def has(self, rows: Indices) -> Mask:
        """Which of these rows are cached; rows that another process wrote are checked against their digests once."""
        return self._digests.has(rows)

    def get(self, row: int) -> Pixels:
        """The pixels of a cached row, (height, width, 3)."""
        return self._pixels_of(row, row + 1).reshape(*self._shape(row), 3)

    def put(self, row: int, pixels: Pixels) -> None:
        """Cache the pixels of a row, if they have the expected shape."""
        if pixels.shape[:2] == self._shape(row):
            self.get(row)[:] = pixels
            self._digests.record(row)

    def finish(self) -> bool:
        """Mark the cache as complete if all rows are cached; returns whether it is complete."""
        if isinstance(self._digests, RowDigests) and self._digests.all():
            self._digests = blocks = BlockDigests(self._rows, self._pixels_of)
            try:
                self._save(blocks)
            except OSError as error:
                # The folder was deleted or the disk is full. This process can still use what it has mapped.
                _log.warning("the cache %s cannot be kept for later runs: %s", self.path, error)
        return self.complete

    @property
    def complete(self) -> bool:
        """Whether all rows are cached, except damaged ones."""
        return isinstance(self._digests, BlockDigests)

    def _save(self, blocks: BlockDigests) -> None:
        with open(os.path.join(self.path, _PIXELS), "rb") as file:
            if os.fstat(file.fileno()).st_ino != self._inode:
                raise FileNotFoundError(errno.ENOENT, "it was deleted and replaced by another cache")
            os.fsync(file.fileno())
        blocks.save(os.path.join(self.path, _BLOCKS))

    def _pixels_of(self, first: int, stop: int) -> Pixels:
        """The pixels of a range of rows, concatenated."""
        return self._pixels[int(self._starts[first]) : int(self._starts[stop])]

    def _shape(self, row: int) -> tuple[int, int]:
        height, width = self._shapes[row if len(self._shapes) > 1 else 0]
        return int(height), int(width)

    def _open(self, place: CachePlace) -> None:
        """Open the cache; create it if it does not exist."""
        pixels, blocks = (os.path.join(self.path, name) for name in (_PIXELS, _BLOCKS))
        allowed, complete = place.allowed(), os.path.exists(blocks)
        # A complete cache takes no more of the disk, however little is free now.
        if self.nbytes > allowed and not (complete and place.budget is None):
            raise NoCacheError(
                f"{self.nbytes / 1e9:.2f} GB of decoded images exceed the {allowed / 1e9:.2f} GB allowed for caches"
            )
        # A shared lock for as long as the cache is in use; deleting it takes an exclusive lock.
        self._lock = lock_folder(self.path, fcntl.LOCK_SH)
        loaded = BlockDigests.load(blocks, self._rows, self._pixels_of)
        if _file_size(pixels) < self.nbytes:
            # The digests no longer match the pixels.
            if loaded is not None:
                _log.warning("%s is truncated or missing; the images are decoded again", pixels)
            loaded = None
            for path in glob.glob(os.path.join(glob.escape(self.path), f"{_ROWS}.*")):
                os.unlink(path)
        if loaded is None:
            with suppress(FileNotFoundError):
                os.unlink(blocks)
            if not place.make_room(self.path, self.nbytes, allowed):
                raise NoCacheError(
                    f"caches in use leave no room for another {self.nbytes / 1e9:.2f} GB in {place.path}"
                )
        os.utime(self.path)
        self._digests: RowDigests | BlockDigests = loaded or RowDigests(self._map_row_digests(), self._pixels_of)
        self._pixels = _map(pixels, self.nbytes)
        self._inode = os.stat(pixels).st_ino

    def _map_row_digests(self) -> NDArray[np.uint64]:
        """Map the digests of the rows, all 0 in a new cache.

        Reserves the disk space of both files, because writing to a mapped file on a full disk would kill the process.
        """
        digests = os.path.join(self.path, f"{_ROWS}.{_boot_id()}")
        for name, size in ((os.path.join(self.path, _PIXELS), self.nbytes), (digests, self._rows * 8)):
            with open(name, "ab") as file:
                if size > (there := os.fstat(file.fileno()).st_size):
                    _reserve(file.fileno(), there, size)
        return _map(digests, self._rows * 8).view(np.uint64)


def _layout(dataset: lance.LanceDataset, view: View) -> tuple[NDArray[np.int32], Indices]:
    """The shapes of the rows' views (a single one if all are equal), and the offset of each view in the file."""
    rows = dataset.count_rows()
    if not rows:
        raise NoCacheError("the dataset is empty")
    if isinstance(view, Square):
        shape = view.shape(0, 0)
        return np.array([shape], np.int32), np.arange(rows + 1, dtype=np.int64) * shape[0] * shape[1] * 3
    if not {"width", "height"} <= set(dataset.schema.names):
        raise NoCacheError("the dataset has no columns width and height, so the cache cannot be laid out")
    sizes = dataset.to_table(columns=["height", "width"])
    if not all(_are_sizes(column) for column in sizes.columns):
        raise NoCacheError("the columns width and height are not the sizes of images, so the cache cannot be laid out")
    known: dict[tuple[int, int], tuple[int, int]] = {}
    pairs = zip(sizes["height"].to_pylist(), sizes["width"].to_pylist(), strict=True)
    shapes = np.array([known.get(pair) or known.setdefault(pair, view.shape(*pair)) for pair in pairs], np.int32)
    areas = shapes[:, 0].astype(np.int64) * shapes[:, 1] * 3
    return shapes, np.concatenate([[0], np.cumsum(areas)])


def _are_sizes(column: pa.ChunkedArray) -> bool:
    return pa.types.is_integer(column.type) and not column.null_count and bool((column.to_numpy() > 0).all())


def _key(dataset: lance.LanceDataset, view: View, column: str) -> str:
    """Identifies data files, independent of their location, with the column, the view and the decoders."""
    # The default is left out, so that caches from before the column could be chosen stay valid.
    parts: list[object] = [_FORMAT, DECODERS, view.name, *([] if column == "image" else [column])]
    for fragment in dataset.get_fragments():
        facts = fragment.metadata
        deletions = None if facts.deletion_file is None else facts.deletion_file.id
        parts.append([fragment.fragment_id, deletions, [file.path for file in facts.files]])
    return f"{view.name}-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]}"


def _boot_id() -> str:
    """Identifies this boot: a power failure may lose parts of mapped files, so row digests are valid until then."""
    try:
        with open(_BOOT) as file:
            return file.read().strip()
    except OSError:
        return "unknown"


def _reserve(descriptor: int, there: int, size: int) -> None:
    """Extend a file by real disk space, completely or not at all."""
    try:
        if sys.platform == "linux":
            os.posix_fallocate(descriptor, 0, size)
        else:
            os.truncate(descriptor, size)
    except OSError:
        os.truncate(descriptor, there)
        raise


def _file_size(path: str) -> int:
    return os.path.getsize(path) if os.path.exists(path) else 0


def _map(path: str, size: int) -> NDArray[np.uint8]:
    with open(path, "r+b") as file:
        memory = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_WRITE)
    # Reads the file ahead in order; with random reads the first epoch would wait for the disk at each row.
    memory.madvise(mmap.MADV_WILLNEED)
    return np.frombuffer(memory, np.uint8)
