"""SQLite databases: detecting damage and moving a damaged one aside."""

import os
import sqlite3
from contextlib import closing
from itertools import count
from pathlib import Path

from lance_pipeline.errors import InputError
from lance_pipeline.storage.full_disk import full_disk, is_full_disk

# SQLite checks about 200 MB per second; larger databases would delay every start noticeably.
_CHECKED_WHOLE = 1 << 27
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_IOERR)
# A leftover log would be applied to the next database of that name.
_PARTS = ("", "-wal", "-shm", "-journal")


def damage_of(path: Path) -> str | None:
    """The structural damage that SQLite finds in a database; None if it is intact or absent.

    Values are not checked, because SQLite keeps no checksums. For a database above 128 MB only the schema is read.

    Raises:
        FullDiskError: the disk lacks the space that SQLite needs beside the database to read it.
    """
    if not path.exists():
        return None
    try:
        with closing(sqlite3.connect(path.absolute().as_uri() + "?mode=ro", uri=True, timeout=5)) as database:
            database.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if path.stat().st_size > _CHECKED_WHOLE:
                return None
            found = database.execute("PRAGMA quick_check(1)").fetchone()[0]
            return None if found == "ok" else found
    except sqlite3.Error as error:
        if is_full_disk(error, path):
            raise full_disk(path) from error
        return str(error) if error.sqlite_errorcode & 0xFF in _DAMAGE else None


def set_database_aside(path: Path) -> Path:
    """Move a damaged database aside and return its new path, ``<path>.damaged-<n>``.

    Nothing is deleted. No process may have the database open.

    Raises:
        InputError: it cannot be moved.
    """
    candidates = (path.with_name(f"{path.name}.damaged-{number}") for number in count(1))
    aside = next(candidate for candidate in candidates if not candidate.exists())
    try:
        for part in _PARTS:
            if os.path.exists(f"{path}{part}"):
                os.rename(f"{path}{part}", f"{aside}{part}")
    except OSError as error:
        raise InputError(f"cannot move {path} to {aside}: {error.strerror}. Move it yourself.") from error
    return aside
