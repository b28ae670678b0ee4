"""Decoded images in a memory-mapped file, shared by all processes of a machine and by the runs to come.

A cache is a folder named by what it holds. While it is being filled, by any number of processes at once, a byte for
each row tells whether its pixels are there; all of them would write the same. Deleting a folder is safe at any time.
"""

import errno
import fcntl
import glob
import hashlib
import json
import logging
import mmap
import os
import re
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO

import lance
import numpy as np
from numpy.typing import NDArray

from lance_pipeline.images.augmentation import Pixels
from lance_pipeline.images.columns import Indices, Mask
from lance_pipeline.images.decoding import DECODERS
from lance_pipeline.images.loading.views import Square, View

_log = logging.getLogger(__name__)
_PIXELS, _FILLED, _WHOLE, _LOCK = "pixels.u8", "filled.u8", "whole.json", "lock"
# Raised when the same image would give another view than before.
_FORMAT = "1"
_NAME = re.compile(r"(square|shrunk)-[\w-]+-[0-9a-f]{24}")
_BOOT = "/proc/sys/kernel/random/boot_id"
# Of the memory and of the free disk, which caches may take by default.
_SHARE = 0.5


class NoCacheError(Exception):
    """There can be no cache; the message says why."""


@dataclass(frozen=True)
class CachePlace:
    """Where caches are and how much they may hold.

    Attributes:
        folder: of all caches; by default ``$LANCE_PIPELINE_CACHE``, else ``lance_pipeline`` in the user's cache folder.
        budget: bytes that all caches together may take; by default half of the memory, at most half of what is free on
            the disk. Older caches make way for a new one.
    """

    folder: str | None = None
    budget: int | None = None

    @property
    def path(self) -> str:
        """The folder."""
        home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        return self.folder or os.environ.get("LANCE_PIPELINE_CACHE") or os.path.join(home, "lance_pipeline")

    def allowed(self) -> int:
        """The bytes that caches may take now."""
        if self.budget is not None:
            return self.budget
        os.makedirs(self.path, exist_ok=True)
        there = sum(map(_size, _entries(self.path)))
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return int(_SHARE * min(memory, shutil.disk_usage(self.path).free + there))


class PixelCache:
    """The views of a dataset's images, as far as they are known.

    Args:
        place: where.
        dataset: the version whose images these are.
        view: what is kept of each.

    Attributes:
        path: the folder.
        complete: whether all rows are there.

    Raises:
        NoCacheError: it would exceed the budget, the disk is full or may not be written, or the images' sizes are not
            known beforehand.
    """

    def __init__(self, place: CachePlace, dataset: lance.LanceDataset, view: View) -> None:
        self._shapes, self._starts = _layout(dataset, view)
        self._rows = dataset.count_rows()
        self.path = os.path.join(place.path, _key(dataset, view))
        try:
            os.makedirs(self.path, exist_ok=True)
            # Held as long as the cache is in use; whoever wants to delete it asks for it alone.
            self._lock: IO[bytes] = open(os.path.join(self.path, _LOCK), "ab")  # noqa: SIM115
            fcntl.flock(self._lock, fcntl.LOCK_SH)
            self.complete = os.path.exists(os.path.join(self.path, _WHOLE))
            if _bytes_of(os.path.join(self.path, _PIXELS)) < self.nbytes:
                # Somebody has deleted a part of it: what it says of the rest is no longer so.
                self.complete = False
                for path in glob.glob(os.path.join(glob.escape(self.path), f"{_FILLED}.*")):
                    os.unlink(path)
                with suppress(FileNotFoundError):
                    os.unlink(os.path.join(self.path, _WHOLE))
            if not self.complete:
                self._make_room(place)
            os.utime(self.path)
            self._pixels, self._filled = self._open()
            self._inode = os.stat(os.path.join(self.path, _PIXELS)).st_ino
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
        """Which of these rows are there."""
        return np.ones(len(rows), dtype=bool) if self.complete else self._filled[rows] != 0

    def get(self, row: int) -> Pixels:
        """The pixels of a row that is there, (height, width, 3)."""
        height, width = self._shape(row)
        start = int(self._starts[row])
        return self._pixels[start : start + height * width * 3].reshape(height, width, 3)

    def put(self, row: int, pixels: Pixels) -> None:
        """Keep the pixels of a row; its shape must be that of the layout."""
        if pixels.shape[:2] == self._shape(row):
            self.get(row)[:] = pixels
            self._filled[row] = 1

    def finish(self) -> bool:
        """Whether all rows are there, which is noted for others."""
        if not self.complete and self._filled.all():
            try:
                self._note_whole()
            except OSError as error:
                # Somebody has deleted it, or the disk is full: what is mapped serves this process nevertheless.
                _log.warning("%s is not kept for later: %s", self.path, error)
            self.complete = True
        return self.complete

    def _note_whole(self) -> None:
        with open(os.path.join(self.path, _PIXELS), "rb") as file:
            if os.fstat(file.fileno()).st_ino != self._inode:
                raise FileNotFoundError(errno.ENOENT, "it was deleted, and another one has taken its place")
            os.fsync(file.fileno())
        work = os.path.join(self.path, f".{_WHOLE}.{os.getpid()}")
        with open(work, "w") as file:
            json.dump({"rows": self._rows, "bytes": self.nbytes}, file)
        os.replace(work, os.path.join(self.path, _WHOLE))

    def close(self) -> None:
        """Let others delete it."""
        self._lock.close()

    def _shape(self, row: int) -> tuple[int, int]:
        height, width = self._shapes[row if len(self._shapes) > 1 else 0]
        return int(height), int(width)

    def _make_room(self, place: CachePlace) -> None:
        """Delete the caches that were not used for the longest time, until there is room for this one."""
        allowed = place.allowed()
        if self.nbytes > allowed:
            raise NoCacheError(
                f"{self.nbytes / 1e9:.2f} GB of decoded images exceed the {allowed / 1e9:.2f} GB that caches may take"
            )
        others = sorted(
            (one for one in _entries(place.path) if one.path != self.path), key=lambda one: one.stat().st_mtime
        )
        total = sum(map(_size, others))
        for other in others:
            if total + self.nbytes <= allowed:
                return
            size = _size(other)
            if _delete_unused(other.path):
                total -= size
        if total + self.nbytes > allowed:
            raise NoCacheError(f"caches in use leave no room for {self.nbytes / 1e9:.2f} GB in {place.path}")

    def _open(self) -> tuple[Pixels, NDArray[np.uint8]]:
        """The two files, made with all their space, for a full disk would kill whoever writes to a mapped file."""
        names = [os.path.join(self.path, name) for name in (_PIXELS, f"{_FILLED}.{_boot()}")]
        if self.complete:
            filled = np.empty(0, np.uint8)
            return _mapped(names[0], self.nbytes, write=False), filled
        for name, size in zip(names, (self.nbytes, self._rows), strict=True):
            with open(name, "ab") as file:
                if size > (there := os.fstat(file.fileno()).st_size):
                    _reserve(file.fileno(), there, size)
        return _mapped(names[0], self.nbytes, write=True), _mapped(names[1], self._rows, write=True)


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


def _mapped(path: str, size: int, *, write: bool) -> NDArray[np.uint8]:
    with open(path, "r+b" if write else "rb") as file:
        memory = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_WRITE if write else mmap.ACCESS_READ)
    if not write:
        # In order and ahead: at random the first epoch would wait for the disk at each row.
        memory.madvise(mmap.MADV_WILLNEED)
    return np.frombuffer(memory, np.uint8)


def _entries(folder: str) -> Sequence[os.DirEntry[str]]:
    """The caches there; whatever else a user keeps in the folder is left alone."""
    return [
        entry
        for entry in os.scandir(folder)
        if _NAME.fullmatch(entry.name) and os.path.exists(os.path.join(entry.path, _LOCK))
    ]


def _size(entry: os.DirEntry[str]) -> int:
    """What a cache takes on the disk."""
    total = 0
    with suppress(FileNotFoundError):
        for file in os.scandir(entry.path):
            total += file.stat().st_blocks * 512
    return total


def _delete_unused(path: str) -> bool:
    """Whether the cache was in use by nobody and is gone."""
    try:
        with open(os.path.join(path, _LOCK), "ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return not os.path.exists(path)
