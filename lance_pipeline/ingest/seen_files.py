"""What was seen on disk: a memory beside a dataset that spares reading unchanged files again.

It is a folder of Arrow files, each written whole or not at all, which only ever grows while an
ingest works: so a killed ingest loses at most the file that it had not yet written. Each ends in a
seal; what a damaged one remembered is read again. Everything in the folder can be found out again
from the images; it may be deleted at any time.
"""

import json
import logging
import re
from collections.abc import Collection
from contextlib import suppress
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.fs as pafs

from lance_pipeline.errors import DamagedError, InputError
from lance_pipeline.storage import sealed
from lance_pipeline.storage.columns import positions
from lance_pipeline.storage.formats import FIRST_FORMAT, FORMAT_KEY, require_known_format
from lance_pipeline.storage.object_store import CHECK_STORE, filesystem, is_remote, join_uri, write_whole
from lance_pipeline.storage.schema import SEEN_SCHEMA
from lance_pipeline.storage.transparency import EARLIER, Transparency
from lance_pipeline.storage.whole_files import TEMPORARY

_logger = logging.getLogger(__name__)
_STEP, _SUFFIX = "step-", ".arrow"
_STEP_NAME = re.compile(rf"{_STEP}\d+\{_SUFFIX}")
# Holds nothing while files are examined in the ingest's own process, which one of them might end.
_STARTED, _NO_FILE_TO_BLAME = "started", b"no file to blame"
# So many files, or twice as many rows as there are images, are worth one tidy file.
_MOST_FILES = 32
_WRITTEN, _TRANSPARENCY = b"lance_pipeline", b"transparency"
_STEP_FORMAT = 1
_FIRST_COLUMNS = frozenset(
    ("path", "size", "mtime_ns", "sha256", "pixel_digest", "reason", "detail", "decoders", "written")
)
_FORGET = "delete the folder; every file is then read again"


class SeenStep(NamedTuple):
    """A stretch of work that was finished: how many files it saw, and what was written and waits for a commit."""

    name: str
    files: int
    written: list[dict[str, Any]]


class SeenFiles:
    """The memory at a folder, a path or an object-store URI.

    Args:
        uri: of the folder.
        transparency: what transparent pixels become: files that were seen otherwise are read again. With None all are
            remembered.

    Attributes:
        steps: what is remembered, the newest first.
        unfinished: whether an ingest began and never came to its end.
        killed: whether its process ended without a word, so that one of the files that it examined may be to blame.

    Raises:
        InputError: (from every method) the folder cannot be read or written.
    """

    def __init__(self, uri: str, transparency: Transparency | None = None) -> None:
        self._uri, self._transparency = uri, transparency
        self._store, self._folder = filesystem(uri)
        self.steps: list[SeenStep] = []
        self.unfinished = self.killed = False

    def load(self) -> pa.Table:
        """Read all steps, the newest first.

        Returns:
            What was seen, a table of SEEN_SCHEMA, step by step; the first row of a path is the valid one.
        """
        found = self._names()
        self.unfinished = _STARTED in found
        self.killed = self.unfinished and not self._read_bytes(_STARTED)
        names = sorted(filter(_STEP_NAME.fullmatch, found), reverse=True)
        read = [(name, rows) for name in names if (rows := self._read(name)) is not None and self._is_valid(name, rows)]
        self.steps = [SeenStep(name, len(rows), _written_of(rows)) for name, rows in read]
        tables = [rows.replace_schema_metadata(None) for _, rows in read]
        return pa.concat_tables(tables or [SEEN_SCHEMA.empty_table()])

    def tidied(self, rows: pa.Table, current: pa.ChunkedArray) -> pa.Table:
        """What was loaded; where steps or rows are too many, only what is of use, which then is one step.

        Args:
            rows: what ``load`` has given.
            current: the paths of all files that there are.
        """
        few = len(self.steps) <= _MOST_FILES and len(rows) <= 2 * len(current) + _MOST_FILES
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
        """Whether all of these files are there."""
        infos = self._store.get_file_info([filesystem(file)[1] for file in files])
        return all(info.is_file for info in infos)

    def begin(self) -> None:
        """Note that an ingest is at work; after one that was killed its own process examines no files."""
        self._write(_STARTED, _NO_FILE_TO_BLAME if self.killed else b"")

    def stop(self) -> None:
        """Note that an error or a person stopped the ingest."""
        # What stopped it matters more than a note without which the next one only takes more care.
        with suppress(InputError):
            self._write(_STARTED, _NO_FILE_TO_BLAME)

    def append(self, rows: pa.Table, written: list[dict[str, Any]]) -> None:
        """Remember one more step."""
        last = max((int(step.name[len(_STEP) : -len(_SUFFIX)]) for step in self.steps), default=0)
        self._save(f"{_STEP}{last + 1:09d}{_SUFFIX}", rows, written)

    def settle(self, splits: Collection[str]) -> None:
        """Note that these splits are committed and that nothing of theirs is left behind.

        What an interrupted ingest wrote for other splits goes on waiting.

        Args:
            splits: the splits that the ingest was for.
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
        """Whether the pixels were as they would be now; a step of others is removed."""
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
        """The rows of a step, with what was written in the metadata; None where there is no such file, or no more."""
        if (data := self._read_bytes(name)) is None:
            return None
        where = join_uri(self._uri, name)
        try:
            return _rows(data, where)
        except DamagedError as error:
            _logger.warning(
                "%s is damaged (%s) and was removed; the files that it remembered are read again.", where, error
            )
            self._delete(name)
            return None

    def _read_bytes(self, name: str) -> bytes | None:
        try:
            with self._store.open_input_file(f"{self._folder}/{name}") as file:
                return file.read()
        except OSError as error:
            if name not in self._names():
                # A writer on another host has tidied up; a store tells of it in its own words.
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

    def _failure(self, error: OSError) -> InputError:
        hint = (
            CHECK_STORE if is_remote(self._uri) else "Check that the disk has room and that the folder may be written"
        )
        return InputError(
            f"cannot use the folder {self._uri}, which remembers the files seen: {error}. {hint}; it may also be "
            "deleted, every file is then read again."
        )


def _rows(data: bytes, where: str) -> pa.Table:
    """The rows of a step's file, which is at ``where``.

    Raises:
        DamagedError: it is not what was written.
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
    # Earlier versions wrote no seal: nothing is committed that only such a file tells of.
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
