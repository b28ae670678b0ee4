"""Where caches of decoded images are, who uses them, and which make way for others."""

import errno
import fcntl
import os
import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO

_LOCK = "lock"
_NAME = re.compile(r"(square|shrunk)-[\w-]+-[0-9a-f]{24}")
# Of the memory and of the free disk, which caches may take by default.
_SHARE = 0.5


@dataclass(frozen=True)
class CachePlace:
    """Where caches are and how much they may hold.

    Attributes:
        folder: of all caches; by default ``$LANCE_PIPELINE_CACHE``, else ``lance_pipeline`` in the user's cache folder.
        budget: bytes that all caches together may take; by default half of the memory, at most half of what is free on
            the disk. Older caches make way for a new one. With 0 none is used.
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

    def make_room(self, path: str, needed: int, allowed: int) -> bool:
        """Delete the caches that were not used for the longest time, until there is room for one more.

        Args:
            path: the folder of the one to come.
            needed: its bytes.
            allowed: the bytes that all may take.

        Returns:
            Whether there is; those in use stay.
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


def locked_folder(folder: str, kind: int) -> IO[bytes]:
    """The lock of a folder, which is made unless it is there; held until it is closed.

    Args:
        folder: a cache, or the folder of all.
        kind: ``fcntl.LOCK_SH`` or ``fcntl.LOCK_EX``.

    Raises:
        OSError: the folder cannot be written.
    """
    path = os.path.join(folder, _LOCK)
    while True:
        os.makedirs(folder, exist_ok=True)
        file = open(path, "ab", opener=_own)  # noqa: SIM115
        fcntl.flock(file, kind)
        # Whoever deleted the folder meanwhile has left the lock of a file that nobody else will open.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                return file
        file.close()


def _own(path: str, flags: int) -> int:
    """Open a lock without following a link, or waiting for the other end of a pipe."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)


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


def _last_used(entry: os.DirEntry[str]) -> float:
    """When a cache was last opened, in seconds; 0 where a user has deleted it meanwhile."""
    try:
        return entry.stat().st_mtime
    except FileNotFoundError:
        return 0


def _delete_unused(path: str) -> bool:
    """Whether the cache was in use by nobody and is gone."""
    try:
        with open(os.path.join(path, _LOCK), "ab", opener=_own) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return not os.path.exists(path)
