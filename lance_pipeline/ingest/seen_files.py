"""Remembers the files that an ingest has seen, beside the dataset, so that unchanged files are not read again.

The memory is a folder of Arrow files, one per step, each written whole or not at all. It only grows
while an ingest runs, so a killed ingest loses at most the step that it had not yet written. Each file
ends in a seal; the images that a damaged file remembered are read again. Everything in the folder can
be derived from the images again, so it may be deleted at any time.
"""

import json
import logging
import re
from collections.abc import Collection
from contextlib import suppress
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.fs as pafs

from lance_pipeline.errors import DamagedError, ExplainedError
from lance_pipeline.storage import sealed
from lance_pipeline.storage.columns import positions
from lance_pipeline.storage.formats import FIRST_FORMAT, FORMAT_KEY, require_known_format
from lance_pipeline.storage.object_store import CHECK_STORE, filesystem, is_remote, join_uri, store_failure, write_whole
from lance_pipeline.storage.schema import SEEN_SCHEMA
from lance_pipeline.storage.transparency import EARLIER, Transparency
from lance_pipeline.storage.uris import Place, normalized_uri
from lance_pipeline.storage.whole_files import TEMPORARY

_logger = logging.getLogger(__name__)
_STEP, _SUFFIX = "step-", ".arrow"
_STEP_NAME = re.compile(rf"{_STEP}\d+\{_SUFFIX}")
# The file is empty while the ingest examines files in its own process, which one of them might crash.
_STARTED, _NO_FILE_TO_BLAME = "started", b"no file to blame"
# More steps than this, or twice as many rows as there are images, are compacted into one step.
_MAX_STEPS = 32
_WRITTEN, _TRANSPARENCY = b"lance_pipeline", b"transparency"
_STEP_FORMAT = 1
_FIRST_COLUMNS = frozenset(
    ("path", "size", "mtime_ns", "sha256", "pixel_digest", "reason", "detail", "decoders", "written")
)
_FORGET = "delete the folder; every file is then read again"


class SeenStep(NamedTuple):
    """A finished step: the number of files that it saw, and the data files that it wrote and that await a commit."""

    name: str
    files: int
    written: list[dict[str, Any]]


class SeenFiles:
    """The seen files in one folder.

    Args:
        uri: the folder, a path or an object-store URI.
        transparency: what transparent pixels become; files seen with another setting are forgotten and read again.
            None keeps all.

    Attributes:
        steps: the remembered steps, the newest first.
        unfinished: whether an ingest started and did not finish.
        killed: whether its process ended without reporting an error, so that a file may have crashed it.

    Raises:
        InputError: (from every method) the folder cannot be read or written.
    """

    def __init__(self, uri: Place, transparency: Transparency | None = None) -> None:
        self._uri, self._transparency = normalized_uri(uri), transparency
        self._store, self._folder = filesystem(self._uri)
        self.steps: list[SeenStep] = []
        self.unfinished = self.killed = False

    def load(self) -> pa.Table:
        """Read all steps, the newest first.

        Returns:
            The seen files as a table of SEEN_SCHEMA, step by step; the first row of a path is the valid one.
        """
        found = self._names()
        self.unfinished = _STARTED in found
        self.killed = self.unfinished and not self._read_bytes(_STARTED)
        names = sorted(filter(_STEP_NAME.fullmatch, found), reverse=True)
        read = [(name, rows) for name in names if (rows := self._read(name)) is not None and self._is_valid(name, rows)]
        self.steps = [SeenStep(name, len(rows), _written_of(rows)) for name, rows in read]
        tables = [rows.replace_schema_metadata(None) for _, rows in read]
        return pa.concat_tables(tables or [SEEN_SCHEMA.empty_table()])

    def compact(self, rows: pa.Table, current: pa.ChunkedArray) -> pa.Table:
        """Merge the steps into one with only the current files, if there are too many steps or rows.

        Args:
            rows: the result of ``load``.
            current: the paths of all current files.

        Returns:
            The rows that are remembered now.
        """
        few = len(self.steps) <= _MAX_STEPS and len(rows) <= 2 * len(current) + _MAX_STEPS
        if few or any(step.written for step in self.steps):
            return rows
        at, old = positions(current, rows["path"]), [step.name for step in self.steps]
        rows = rows.take(pa.array(at[at >= 0]))
        self.append(rows, [])
        for name in old:
            self._delete(name)
        self.steps = self.steps[:1]
        return rows

    def exist(self, files: list[str]) -> bool:
        """Whether all of these files exist."""
        infos = self._store.get_file_info([filesystem(file)[1] for file in files])
        return all(info.is_file for info in infos)

    def mark_started(self) -> None:
        """Note that an ingest is running; after a killed one, it examines no files in its own process."""
        self._write(_STARTED, _NO_FILE_TO_BLAME if self.killed else b"")

    def mark_stopped(self) -> None:
        """Note that an error or a user stopped the ingest."""
        # The cause matters more than this note; without it the next ingest is only more careful.
        with suppress(ExplainedError):
            self._write(_STARTED, _NO_FILE_TO_BLAME)

    def append(self, rows: pa.Table, written: list[dict[str, Any]]) -> None:
        """Remember one more step."""
        last = max((int(step.name[len(_STEP) : -len(_SUFFIX)]) for step in self.steps), default=0)
        self._save(f"{_STEP}{last + 1:09d}{_SUFFIX}", rows, written)

    def mark_committed(self, splits: Collection[str]) -> None:
        """Note that these splits are committed and have no data files left to commit.

        Data files that an interrupted ingest wrote for other splits keep waiting for their commit.

        Args:
            splits: the splits of the finished ingest.
        """
        for step in self.steps:
            waiting = [one for one in step.written if one["split"] not in splits]
            if waiting != step.written and (rows := self._read(step.name)) is not None:
                self._save(step.name, rows, waiting)
        if any(step.written for step in self.steps):
            return
        if self.unfinished:
            for name in [name for name in self._names() if name.endswith(TEMPORARY)]:
                self._delete(name)
        self._delete(_STARTED)

    def _is_valid(self, name: str, rows: pa.Table) -> bool:
        """Whether a step was written with the current transparency; otherwise it is deleted."""
        seen = (rows.schema.metadata or {}).get(_TRANSPARENCY, EARLIER.encode()).decode()
        if self._transparency in (None, seen):
            return True
        self._delete(name)
        return False

    def _save(self, name: str, rows: pa.Table, written: list[dict[str, Any]]) -> None:
        sink = pa.BufferOutputStream()
        transparency = self._transparency or EARLIER
        schema = SEEN_SCHEMA.with_metadata(
            {
                FORMAT_KEY.encode(): str(_STEP_FORMAT).encode(),
                _WRITTEN: json.dumps(written).encode(),
                _TRANSPARENCY: transparency.encode(),
            }
        )
        with pa.ipc.new_file(sink, schema) as writer:
            writer.write_table(rows.replace_schema_metadata(schema.metadata))
        self._write(name, sealed.sealed(memoryview(sink.getvalue())))
        kept = [one for one in self.steps if one.name != name]
        self.steps = sorted([SeenStep(name, len(rows), written), *kept], key=lambda one: one.name, reverse=True)

    def _read(self, name: str) -> pa.Table | None:
        """The rows of a step, with its data files in the metadata; None if the file is gone or damaged."""
        if (data := self._read_bytes(name)) is None:
            return None
        where = join_uri(self._uri, name)
        try:
            return _rows(data, where)
        except DamagedError as error:
            _logger.warning(
                "%s was damaged (%s) and has been removed; the images that it remembered are read again.", where, error
            )
            self._delete(name)
            return None

    def _read_bytes(self, name: str) -> bytes | None:
        try:
            with self._store.open_input_file(f"{self._folder}/{name}") as file:
                return file.read()
        except OSError as error:
            if name not in self._names():
                # A writer on another host has compacted the steps; each store reports that with its own error.
                return None
            raise self._failure(error) from error

    def _names(self) -> list[str]:
        try:
            found = self._store.get_file_info(pafs.FileSelector(self._folder, allow_not_found=True))
        except OSError as error:
            raise self._failure(error) from error
        return [info.base_name for info in found if info.is_file]

    def _write(self, name: str, data: bytes | pa.Buffer) -> None:
        try:
            write_whole(join_uri(self._uri, name), data)
        except OSError as error:
            raise self._failure(error) from error

    def _delete(self, name: str) -> None:
        try:
            self._store.delete_file(f"{self._folder}/{name}")
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._failure(error) from error

    def _failure(self, error: OSError) -> ExplainedError:
        failure = f"cannot use the folder {self._uri}, which remembers the seen files: {error}."
        local = (
            "Check that the disk has room and that the folder is writable. You can also delete the folder; the next "
            "ingest then reads every file again"
        )
        return store_failure(self._uri, error, failure, CHECK_STORE if is_remote(self._uri) else local)


def _rows(data: bytes, where: str) -> pa.Table:
    """The rows of a step's file, which is at ``where``.

    Raises:
        DamagedError: the file is not what was written.
        LaterFormatError: a later version of this package has written it.
    """
    content, intact = sealed.unsealed(data)
    if intact is False:
        raise DamagedError("its digest differs")
    try:
        rows = pa.ipc.open_file(pa.py_buffer(content)).read_all()
        rows.validate(full=True)
        metadata = rows.schema.metadata or {}
        number = int(metadata.get(FORMAT_KEY.encode(), FIRST_FORMAT))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DamagedError(str(error)) from error
    require_known_format(number, _STEP_FORMAT, where, _FORGET)
    # Earlier versions wrote no seal; data files listed in an unsealed step are not committed.
    kept = {key: value for key, value in metadata.items() if intact or key != _WRITTEN}
    return _known_columns(rows).replace_schema_metadata(kept)


def _known_columns(rows: pa.Table) -> pa.Table:
    """The columns of SEEN_SCHEMA; those that earlier versions did not have are null.

    Raises:
        DamagedError: one is missing that was always there, or has other values.
    """
    if rows.schema.equals(SEEN_SCHEMA):
        return rows
    for field in SEEN_SCHEMA:
        if field.name not in (*rows.schema.names, *_FIRST_COLUMNS):
            rows = rows.append_column(field, pa.nulls(len(rows), field.type))
    try:
        return rows.select(SEEN_SCHEMA.names).cast(SEEN_SCHEMA)
    except (pa.ArrowException, KeyError, ValueError) as error:
        raise DamagedError(f"it has other columns: {error}") from error


def _written_of(rows: pa.Table) -> list[dict[str, Any]]:
    return json.loads((rows.schema.metadata or {}).get(_WRITTEN, b"[]"))
