"""Errors that mean a full disk, however the library that ran into it puts it."""

import errno
import os
import shutil
import sqlite3
from pathlib import Path

from lance_pipeline.errors import InputError
from lance_pipeline.storage.redacted_errors import chain

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
# With less than this on the disk, SQLite cannot even make the 32 KB that its readers share, and gives another reason.
_LEAST = 1 << 16


class FullDiskError(InputError):
    """No space is left on a disk."""


def full_disk(path: str | os.PathLike[str]) -> FullDiskError:
    """The error for the full disk that holds a path.

    Args:
        path: what could not be written, or the folder that it is in; it need not exist.
    """
    return FullDiskError(
        f"no space is left on the disk to write {os.fspath(path)} ({free_bytes(path):,} bytes are free). Free some "
        "space (`python -m lance_pipeline disk` lists what may go), then run the same command again: nothing that was "
        "finished is lost."
    )


def free_bytes(path: str | os.PathLike[str]) -> int:
    """How many bytes this user may still write to the disk with a path, which need not exist."""
    path = Path(path).absolute()
    return shutil.disk_usage(next(folder for folder in (path, *path.parents) if folder.exists())).free


def is_full_disk(error: BaseException, path: str | os.PathLike[str]) -> bool:
    """Whether an error, or one that caused it, means that the disk with a path is full, or a quota is used up."""
    return any(_says_full(one, path) for one in chain(error))


def _says_full(error: BaseException, path: str | os.PathLike[str]) -> bool:
    if isinstance(error, sqlite3.OperationalError):
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        unclear = code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)
        return code == sqlite3.SQLITE_FULL or (unclear and free_bytes(path) < _LEAST)
    return isinstance(error, OSError) and error.errno in _NO_SPACE
