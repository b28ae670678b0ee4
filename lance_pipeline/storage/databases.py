"""SQLite databases: whether one is damaged, and moving it out of the way."""

import os
import sqlite3
from contextlib import closing
from itertools import count
from pathlib import Path

from lance_pipeline.errors import InputError
from lance_pipeline.storage.full_disk import full_disk, is_full_disk

# SQLite checks about 200 MB in a second; more would be felt at each start.
_CHECKED_WHOLE = 1 << 27
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_IOERR)
# A log that is left behind would be applied to the next database of that name.
_PARTS = ("", "-wal", "-shm", "-journal")


def damage_of(path: Path) -> str | None:
    """What SQLite finds wrong with the structure of a database; None where it is sound, or not there.

    Values are not covered, for SQLite keeps no checksums, and of a database beyond 128 MB only the schema is read.

    Raises:
        FullDiskError: it cannot be read for want of the space that SQLite needs beside it.
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
    """Move a damaged database out of the way of a new one; returns where it is now, ``<path>.damaged-<n>``.

    Nothing is deleted. No process may have it open.

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
