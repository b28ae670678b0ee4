"""Decoded images in a memory-mapped file, shared by all processes of a machine and by the runs to come.

A cache is a folder named by what it holds. While it is being filled, by any number of processes at once, the digest of
each row's pixels is written once they are there; all processes write the same. A whole cache has a digest for each
block of rows instead. A process compares what it did not write itself with these digests, once, and decodes damaged
rows again. Deleting a folder is safe at any time.
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
from numpy.typing import NDArray

from lance_pipeline.imaging.decoding import DECODERS
from lance_pipeline.loader.augmentation import Pixels
from lance_pipeline.loader.cache_digests import BlockDigests, RowDigests
from lance_pipeline.loader.cache_place import CachePlace, locked_folder
from lance_pipeline.loader.views import Square, View
from lance_pipeline.storage.columns import Indices, Mask
from lance_pipeline.storage.table_errors import reading

_log = logging.getLogger(__name__)
_PIXELS, _ROWS, _BLOCKS = "pixels.u8", "rows.u64", "blocks.u64"
# Raised when the same image would give another view than before, or the files have another form.
_FORMAT = "2"
_BOOT = "/proc/sys/kernel/random/boot_id"


class NoCacheError(Exception):
    """There can be no cache; the message says why."""


class PixelCache:
    """The views of a dataset's images, as far as they are known.

    Args:
        place: where.
        dataset: the version whose images these are.
        view: what is kept of each.

    Attributes:
        path: the folder.

    Raises:
        NoCacheError: it would exceed the budget, the disk is full or may not be written, or the images' sizes are not
            known beforehand.
    """

    def __init__(self, place: CachePlace, dataset: lance.LanceDataset, view: View) -> None:
        with reading(dataset.uri, dataset.version):
            self._shapes, self._starts = _layout(dataset, view)
        self._rows = dataset.count_rows()
        self.path = os.path.join(place.path, _key(dataset, view))
        try:
            # Or two at once would each make room by deleting what the other one is about to use or to delete.
            with locked_folder(place.path, fcntl.LOCK_EX):
                self._enter(place)
        except OSError as error:
            raise NoCacheError(f"{self.path} cannot be used: {error.strerror or error}") from error

    @property
    def nbytes(self) -> int:
        """The size of the pixels."""
        return int(self._starts[-1])

    @property
    def square(self) -> Pixels:
        """All images as one array (rows, height, width, 3), where all have one size."""
        return self._pixels.reshape(self._rows, *self._shapes[0], 3)

    def has(self, rows: Indices) -> Mask:
        """Which of these rows are there; what another process has written is compared with its digest once."""
        return self._digests.has(rows)

    def get(self, row: int) -> Pixels:
        """The pixels of a row that is there, (height, width, 3)."""
        return self._between(row, row + 1).reshape(*self._shape(row), 3)

    def put(self, row: int, pixels: Pixels) -> None:
        """Keep the pixels of a row; its shape must be that of the layout."""
        if pixels.shape[:2] == self._shape(row):
            self.get(row)[:] = pixels
            self._digests.written(row)

    def finish(self) -> bool:
        """Whether all rows are there, which is noted for others."""
        if isinstance(self._digests, RowDigests) and self._digests.all():
            self._digests = whole = BlockDigests(self._rows, self._between)
            try:
                self._note_whole(whole)
            except OSError as error:
                # Somebody has deleted it, or the disk is full: what is mapped serves this process nevertheless.
                _log.warning("%s is not kept for later: %s", self.path, error)
        return self.complete

    @property
    def complete(self) -> bool:
        """Whether all rows are there, but for damaged ones."""
        return isinstance(self._digests, BlockDigests)

    def _note_whole(self, whole: BlockDigests) -> None:
        with open(os.path.join(self.path, _PIXELS), "rb") as file:
            if os.fstat(file.fileno()).st_ino != self._inode:
                raise FileNotFoundError(errno.ENOENT, "it was deleted, and another one has taken its place")
            os.fsync(file.fileno())
        whole.save(os.path.join(self.path, _BLOCKS))

    def _between(self, first: int, stop: int) -> Pixels:
        """The pixels of these rows, one after the other."""
        return self._pixels[int(self._starts[first]) : int(self._starts[stop])]

    def close(self) -> None:
        """Let others delete it."""
        self._lock.close()

    def _shape(self, row: int) -> tuple[int, int]:
        height, width = self._shapes[row if len(self._shapes) > 1 else 0]
        return int(height), int(width)

    def _enter(self, place: CachePlace) -> None:
        """Begin to use the cache, which is made unless it is there."""
        pixels, blocks = (os.path.join(self.path, name) for name in (_PIXELS, _BLOCKS))
        allowed, there = place.allowed(), os.path.exists(blocks)
        # One that is whole takes no more of the disk, however little is left there now.
        if self.nbytes > allowed and not (there and place.budget is None):
            raise NoCacheError(
                f"{self.nbytes / 1e9:.2f} GB of decoded images exceed the {allowed / 1e9:.2f} GB that caches may take"
            )
        # Held as long as the cache is in use; whoever wants to delete it asks for it alone.
        self._lock = locked_folder(self.path, fcntl.LOCK_SH)
        whole = BlockDigests.load(blocks, self._rows, self._between)
        if _bytes_of(pixels) < self.nbytes:
            # What it says of the rest is no longer so.
            if whole is not None:
                _log.warning("%s is cut off or gone; the images are decoded again", pixels)
            whole = None
            for path in glob.glob(os.path.join(glob.escape(self.path), f"{_ROWS}.*")):
                os.unlink(path)
        if whole is None:
            with suppress(FileNotFoundError):
                os.unlink(blocks)
            if not place.make_room(self.path, self.nbytes, allowed):
                raise NoCacheError(f"caches in use leave no room for {self.nbytes / 1e9:.2f} GB in {place.path}")
        os.utime(self.path)
        self._digests: RowDigests | BlockDigests = whole or RowDigests(self._filled(), self._between)
        self._pixels = _mapped(pixels, self.nbytes)
        self._inode = os.stat(pixels).st_ino

    def _filled(self) -> NDArray[np.uint64]:
        """The digests of the rows, all 0 where the cache is new.

        Both files are made with all their space, as writing to a mapped file on a full disk would kill the process.
        """
        filled = os.path.join(self.path, f"{_ROWS}.{_boot()}")
        for name, size in ((os.path.join(self.path, _PIXELS), self.nbytes), (filled, self._rows * 8)):
            with open(name, "ab") as file:
                if size > (there := os.fstat(file.fileno()).st_size):
                    _reserve(file.fileno(), there, size)
        return _mapped(filled, self._rows * 8).view(np.uint64)


def _layout(dataset: lance.LanceDataset, view: View) -> tuple[NDArray[np.int32], Indices]:
    """The shapes of the rows' views, one for all where they are equal, and where each starts."""
    rows = dataset.count_rows()
    if not rows:
        raise NoCacheError("the dataset is empty")
    if isinstance(view, Square):
        shape = view.shape(0, 0)
        return np.array([shape], np.int32), np.arange(rows + 1, dtype=np.int64) * shape[0] * shape[1] * 3
    if not {"width", "height"} <= set(dataset.schema.names):
        raise NoCacheError("the dataset does not tell the sizes of its images")
    sizes = dataset.to_table(columns=["height", "width"])
    known: dict[tuple[int, int], tuple[int, int]] = {}
    pairs = zip(sizes["height"].to_pylist(), sizes["width"].to_pylist(), strict=True)
    shapes = np.array([known.get(pair) or known.setdefault(pair, view.shape(*pair)) for pair in pairs], np.int32)
    areas = shapes[:, 0].astype(np.int64) * shapes[:, 1] * 3
    return shapes, np.concatenate([[0], np.cumsum(areas)])


def _key(dataset: lance.LanceDataset, view: View) -> str:
    """The same for the same data files, wherever they are, and the same view of them by the same decoders."""
    parts: list[object] = [_FORMAT, DECODERS, view.name]
    for fragment in dataset.get_fragments():
        facts = fragment.metadata
        deletions = None if facts.deletion_file is None else facts.deletion_file.id
        parts.append([fragment.fragment_id, deletions, [file.path for file in facts.files]])
    return f"{view.name}-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]}"


def _boot() -> str:
    """Of a power failure the mapped files may survive in part: what is not whole is valid until then."""
    try:
        with open(_BOOT) as file:
            return file.read().strip()
    except OSError:
        return "unknown"


def _reserve(descriptor: int, there: int, size: int) -> None:
    """Enlarge a file, all of it or not at all."""
    try:
        if sys.platform == "linux":
            os.posix_fallocate(descriptor, 0, size)
        else:
            os.truncate(descriptor, size)
    except OSError:
        os.truncate(descriptor, there)
        raise


def _bytes_of(path: str) -> int:
    return os.path.getsize(path) if os.path.exists(path) else 0


def _mapped(path: str, size: int) -> NDArray[np.uint8]:
    with open(path, "r+b") as file:
        memory = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_WRITE)
    # In order and ahead: at random the first epoch would wait for the disk at each row.
    memory.madvise(mmap.MADV_WILLNEED)
    return np.frombuffer(memory, np.uint8)
