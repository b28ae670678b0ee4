"""The files of one folder of classes, from a disk or an object store, as columns."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import groupby

import pyarrow as pa
import pyarrow.fs as pafs

from lance_pipeline.errors import InputError
from lance_pipeline.images.names import escape_name
from lance_pipeline.images.object_store import CHECK_STORE, filesystem, is_remote

LISTING_SCHEMA = pa.schema(
    [
        pa.field("split", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("mtime_ns", pa.int64(), nullable=False),
    ]
)
# Files that file managers leave behind; everything hidden is passed over as well.
_LITTER = {b"thumbs.db", b"desktop.ini"}
# Python objects take ten times the memory of Arrow's columns: they live for this many files.
_CHUNK = 1 << 12


def folder_exists(folder: str) -> bool:
    """Whether a folder, or an object-store prefix with anything below it, is there.

    Raises:
        InputError: the store cannot be asked, or has no such bucket.
    """
    if not is_remote(folder):
        return os.path.isdir(folder)
    if _remote_files(folder, recursive=False):
        return True
    store, path = filesystem(folder)
    bucket = path.partition("/")[0]
    with suppress(OSError):
        if store.get_file_info(bucket).type == pafs.FileType.NotFound:
            raise InputError(f"{folder} is missing: there is no bucket {bucket!r} at the store. {CHECK_STORE}.")
    return False


def subfolders(folder: str) -> list[str]:
    """The names of the folders in ``folder``, for people."""
    if is_remote(folder):
        found = [
            info.base_name for info in _remote_files(folder, recursive=False) if info.type == pafs.FileType.Directory
        ]
    else:
        found = [entry.name for entry in os.scandir(folder) if entry.is_dir()] if os.path.isdir(folder) else []
    return sorted(name for name in found if not name.startswith("."))


class FolderScan:
    """Lists ``<folder>/<label>/…/<file>`` with sizes and times.

    Args:
        folder: the folder of classes.
        base: the folder that the paths are relative to; ``folder`` or one above it.
        split: goes into the column of that name.

    Attributes:
        ignored: hidden files and files outside of class folders, found so far, by escaped path.
        empty: class folders without files.
    """

    def __init__(self, folder: str, base: str, split: str) -> None:
        self.ignored: list[str] = []
        self.empty: list[str] = []
        self.split, self._folder = split, folder
        below = folder.removeprefix(base).strip("/")
        self._prefix = escape_name(os.fsencode(below)) + "/" if below else ""

    def table(self) -> pa.Table:
        """All files as a table of LISTING_SCHEMA, in the order of label and path.

        Raises:
            InputError: a folder cannot be read, a class has a name that is not UTF-8, or a class
                folder is a link.
        """
        batches = self._remote() if is_remote(self._folder) else self._local()
        # Class by class: sorting all at once would take a multiple of the memory.
        classes = [
            pa.Table.from_batches(members, LISTING_SCHEMA).sort_by("path")
            for _, members in groupby(batches, key=lambda batch: batch["label"][0].as_py())
        ]
        return pa.concat_tables(sorted(classes, key=_label) or [LISTING_SCHEMA.empty_table()])

    def _batch(self, label: str, paths: list[str], sizes: list[int], times: list[int]) -> pa.RecordBatch:
        same = [pa.repeat(pa.scalar(text, pa.string()), len(paths)) for text in (self.split, label)]
        others = [pa.array(paths, pa.string()), pa.array(sizes, pa.int64()), pa.array(times, pa.int64())]
        return pa.record_batch([*same, *others], schema=LISTING_SCHEMA)

    def _local(self) -> Iterator[pa.RecordBatch]:
        links = []
        with _opened(os.fsencode(self._folder)) as entries:
            for entry in entries:
                if _is_litter(entry.name) or not entry.is_dir():
                    self.ignored.append(self._prefix + escape_name(entry.name))
                elif entry.is_symlink():
                    links.append(f"{_shown(entry.path)}, a link to {_shown(os.path.realpath(entry.path))}")
                else:
                    yield from self._local_class(entry)
        if links:
            raise InputError(
                f"{len(links)} class folders of {self._folder} are links, which are not followed:\n  "
                + "\n  ".join(links[:5]) + "\nPut the folders themselves there, or mount them there.",
                links,
            )  # fmt: skip

    def _local_class(self, entry: os.DirEntry[bytes]) -> Iterator[pa.RecordBatch]:
        try:
            label = entry.name.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"the class folder {entry.path!r} has a name that is not UTF-8. Rename it.") from error
        empty = True
        for files in self._walk(entry.path, self._prefix + escape_name(entry.name) + "/"):
            empty = False
            yield self._batch(label, *files)
        if empty:
            self.empty.append(label)

    def _walk(self, folder: bytes, prefix: str) -> Iterator[tuple[list[str], list[int], list[int]]]:
        """Paths, sizes and times of all that is no folder below ``folder``; whether it can be read is seen later.

        It runs once for each file: hence lists instead of one file after the other, and no calls but those needed.
        """
        below: list[tuple[bytes, str]] = []
        paths, sizes, times = [], [], []
        with _opened(folder) as entries:
            for entry in entries:
                name = entry.name
                text = name.decode() if name.isascii() and b"%" not in name else escape_name(name)
                if name[0] == 46 or name.lower() in _LITTER:
                    self.ignored.append(prefix + text)
                    continue
                status = _status(entry)
                if stat.S_ISDIR(status.st_mode):
                    below.append((entry.path, prefix + text + "/"))
                    continue
                paths.append(prefix + text)
                sizes.append(status.st_size)
                times.append(status.st_mtime_ns)
                if len(paths) == _CHUNK:
                    yield paths, sizes, times
                    paths, sizes, times = [], [], []
        if paths:
            yield paths, sizes, times
        for path, deeper in below:
            yield from self._walk(path, deeper)

    def _remote(self) -> Iterator[pa.RecordBatch]:
        _, base = filesystem(self._folder)
        files = [
            (info.path[len(base) + 1 :], info) for info in _remote_files(self._folder, recursive=True) if info.is_file
        ]
        files.sort(key=lambda one: one[0])
        for label, members in groupby(files, key=lambda one: one[0].partition("/")[0]):
            paths, sizes, times = [], [], []
            for path, info in members:
                text = self._prefix + escape_name(path.encode())
                if "/" not in path or any(_is_litter(part.encode()) for part in path.split("/")):
                    self.ignored.append(text)
                    continue
                paths.append(text)
                sizes.append(info.size)
                times.append(info.mtime_ns)
            if paths:
                yield self._batch(label, paths, sizes, times)


def _label(table: pa.Table) -> str:
    return table["label"][0].as_py()


def _remote_files(folder: str, *, recursive: bool) -> list[pafs.FileInfo]:
    store, path = filesystem(folder)
    try:
        return store.get_file_info(pafs.FileSelector(path, recursive=recursive, allow_not_found=True))
    except OSError as error:
        raise InputError(f"{folder} cannot be listed: {error}. {CHECK_STORE}.") from error


@contextmanager
def _opened(folder: bytes) -> Iterator[Iterator[os.DirEntry[bytes]]]:
    """What is in the folder; errors of reading it are told as such."""
    try:
        with os.scandir(folder) as entries:
            yield entries
    except OSError as error:
        raise InputError(
            f"the folder {_shown(folder)} cannot be read: {error.strerror}. Give yourself the right to read it."
        ) from error


def _status(entry: os.DirEntry[bytes]) -> os.stat_result:
    """Size and time of the file or, of a link to a file, of that; a link to anything else stands for itself."""
    try:
        status = entry.stat(follow_symlinks=False)
        if stat.S_ISLNK(status.st_mode):
            with suppress(OSError):
                target = entry.stat()
                return target if stat.S_ISREG(target.st_mode) else status
    except OSError as error:
        raise InputError(
            f"{_shown(entry.path)} cannot be looked at: {error.strerror}. If the folder was changing, try again."
        ) from error
    return status


def _is_litter(name: bytes) -> bool:
    return name.startswith(b".") or name.lower() in _LITTER


def _shown(path: bytes) -> str:
    """The path as text for people, also where its bytes are not UTF-8."""
    return path.decode("utf-8", "backslashreplace")
