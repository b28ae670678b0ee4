"""Recognizing a full disk in the errors of all libraries."""

import errno
import os
import shutil
import sqlite3
from pathlib import Path

from lance_pipeline.errors import InputError
from lance_pipeline.storage.redacted_errors import chain

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
# With less free space than this, SQLite cannot create the 32 KB that its readers share, and reports another error.
_SQLITE_MINIMUM_BYTES = 1 << 16


class FullDiskError(InputError):
    """No space is left on a disk."""


def full_disk(path: str | os.PathLike[str]) -> FullDiskError:
    """The error for the full disk that holds a path.

    Args:
        path: the file that could not be written, or its folder; it need not exist.
    """
    return FullDiskError(
        f"no space is left on the disk to write {os.fspath(path)} ({free_bytes(path):,} bytes are free). Free some "
        "space (`python -m lance_pipeline disk` lists what can be deleted), then run the same command again: finished "
        "work is kept."
    )


def free_bytes(path: str | os.PathLike[str]) -> int:
    """The free space in bytes for this user on the disk of a path, which need not exist."""
    path = Path(path).absolute()
    return shutil.disk_usage(next(folder for folder in (path, *path.parents) if folder.exists())).free


def is_full_disk(error: BaseException, path: str | os.PathLike[str]) -> bool:
    """Whether an error or one of its causes means that the disk of a path is full or a quota is exceeded."""
    return any(_says_full(one, path) for one in chain(error))


def _says_full(error: BaseException, path: str | os.PathLike[str]) -> bool:
    if isinstance(error, sqlite3.OperationalError):
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        unclear = code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)
        return code == sqlite3.SQLITE_FULL or (unclear and free_bytes(path) < _SQLITE_MINIMUM_BYTES)
    return isinstance(error, OSError) and error.errno in _NO_SPACE
