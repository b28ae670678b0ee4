"""The folder of all caches of decoded images: locks, budget and eviction."""

import errno
import fcntl
import os
import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO

from lance_pipeline.storage.uris import Place, local_path

_LOCK = "lock"
_NAME = re.compile(r"(square|shrunk)-[\w-]+-[0-9a-f]{24}")
# The share of the memory and of the free disk that caches may take by default.
_SHARE = 0.5


@dataclass(frozen=True)
class CachePlace:
    """Where caches are kept and how much space they may take.

    Attributes:
        folder: the folder of all caches; by default ``$LANCE_PIPELINE_CACHE``, else ``lance_pipeline`` in the user's
            cache folder.
        budget: bytes that all caches together may take; by default half of the memory, but at most half of the free
            disk. The least recently used caches are deleted to make room. 0 disables caches.
    """

    folder: Place | None = None
    budget: int | None = None

    @property
    def path(self) -> str:
        """The folder.

        Raises:
            InputError: it is not local.
        """
        home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        given = self.folder or os.environ.get("LANCE_PIPELINE_CACHE") or os.path.join(home, "lance_pipeline")
        return local_path(given, "the folder of caches")

    def allowed(self) -> int:
        """The bytes that caches may take now."""
        if self.budget is not None:
            return self.budget
        os.makedirs(self.path, exist_ok=True)
        there = sum(map(_size, _entries(self.path)))
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return int(_SHARE * min(memory, shutil.disk_usage(self.path).free + there))

    def make_room(self, path: str, needed: int, allowed: int) -> bool:
        """Delete the least recently used caches until there is room for a new one; caches in use stay.

        Args:
            path: the folder of the new cache.
            needed: the bytes that it needs.
            allowed: the bytes that all caches may take.

        Returns:
            Whether there is room.
        """
        others = sorted((one for one in _entries(self.path) if one.path != path), key=_last_used)
        total = sum(map(_size, others))
        for other in others:
            if total + needed <= allowed:
                break
            size = _size(other)
            if _delete_unused(other.path):
                total -= size
        return total + needed <= allowed


def lock_folder(folder: str, kind: int) -> IO[bytes]:
    """Lock a folder, and create it if it does not exist.

    Args:
        folder: a cache, or the folder of all caches.
        kind: ``fcntl.LOCK_SH`` or ``fcntl.LOCK_EX``.

    Returns:
        The lock file; closing it releases the lock.

    Raises:
        OSError: the folder cannot be written.
    """
    path = os.path.join(folder, _LOCK)
    while True:
        os.makedirs(folder, exist_ok=True)
        file = open(path, "ab", opener=_open_safely)  # noqa: SIM115
        fcntl.flock(file, kind)
        # If the folder was deleted meanwhile, this lock is on a file that no other process can open.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                return file
        file.close()


def _open_safely(path: str, flags: int) -> int:
    """Open a lock file without following a link or blocking on a pipe."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)


def _entries(folder: str) -> Sequence[os.DirEntry[str]]:
    """The caches in the folder; other files of the user are ignored."""
    return [
        entry
        for entry in os.scandir(folder)
        if _NAME.fullmatch(entry.name) and os.path.exists(os.path.join(entry.path, _LOCK))
    ]


def _size(entry: os.DirEntry[str]) -> int:
    """The disk space that a cache takes, in bytes."""
    total = 0
    with suppress(FileNotFoundError):
        for file in os.scandir(entry.path):
            total += file.stat().st_blocks * 512
    return total


def _last_used(entry: os.DirEntry[str]) -> float:
    """When a cache was last opened, in seconds; 0 if it was deleted meanwhile."""
    try:
        return entry.stat().st_mtime
    except FileNotFoundError:
        return 0


def _delete_unused(path: str) -> bool:
    """Delete a cache unless it is in use; returns whether it is gone."""
    try:
        with open(os.path.join(path, _LOCK), "ab", opener=_open_safely) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return not os.path.exists(path)
