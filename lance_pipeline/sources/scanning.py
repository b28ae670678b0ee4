"""Scanning a folder of classes, on disk or in an object store, into Arrow columns."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import compress, groupby, islice
from operator import not_

import pyarrow as pa
import pyarrow.fs as pafs

from lance_pipeline.errors import ExplainedError, InputError
from lance_pipeline.sources.file_names import escape_name, escape_names
from lance_pipeline.storage.confined import ConfinedFolder, LinkError
from lance_pipeline.storage.object_store import CHECK_STORE, filesystem, is_remote, join_uri, store_failure
from lance_pipeline.storage.schema import LATEST_NS
from lance_pipeline.storage.uris import Place, normalized_uri

_COLUMNS: list[tuple[str, pa.DataType, str]] = [
    ("split", pa.string(), "train, val or test; empty if not yet assigned"),
    ("label", pa.string(), "The class: the name of the class folder"),
    ("path", pa.string(), "Relative to the split's folder, unique; % becomes %25, a byte that is not UTF-8 %XX"),
    ("size", pa.int64(), "Size of the file in bytes"),
    ("mtime_ns", pa.int64(), "The file's modification time, in nanoseconds since 1970"),
]
LISTING_SCHEMA = pa.schema(
    [pa.field(name, kind, nullable=False, metadata={"description": text}) for name, kind, text in _COLUMNS]
)
# Files created by file managers; hidden files are ignored as well.
_LITTER = {"thumbs.db", "desktop.ini"}
# Files per batch. Python objects take ten times the memory of Arrow columns; this few fit into the CPU caches.
_CHUNK = 1 << 8
# Errors for a folder that was removed, or replaced by a file or a link.
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


def folder_exists(place: Place) -> bool:
    """Whether a folder, or a non-empty object-store prefix, exists.

    Raises:
        InputError: the store denies access, or has no such bucket.
        ServiceError: the store is away.
    """
    folder = normalized_uri(place)
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


def subfolders(place: Place) -> list[str]:
    """The names of the visible folders in a folder."""
    folder = normalized_uri(place)
    if is_remote(folder):
        found = [
            info.base_name for info in _remote_files(folder, recursive=False) if info.type == pafs.FileType.Directory
        ]
    else:
        found = [entry.name for entry in os.scandir(folder) if _is_folder(entry)] if os.path.isdir(folder) else []
    return sorted(name for name in found if not name.startswith("."))


class FolderScan:
    """Lists ``<root>/<folder>/<label>/…/<file>`` with sizes and modification times.

    Args:
        root: the dataset's folder; no link may lead out of it.
        folder: the folder of classes, relative to ``root``.
        split: the value of the column ``split``.
        from_root: whether paths are relative to ``root`` instead of ``folder``.

    Attributes:
        ignored: escaped paths of the hidden files and files outside of class folders found so far.
        empty: class folders without files.
    """

    def __init__(self, root: Place, folder: str, split: str, *, from_root: bool = False) -> None:
        root = normalized_uri(root)
        self.ignored: list[str] = []
        self.empty: list[str] = []
        self.split = split
        self._root, self._below, self._folder = root, folder, join_uri(root, folder)
        self._prefix = escape_name(os.fsencode(folder.strip("/"))) + "/" if from_root and folder.strip("/") else ""

    def table(self) -> pa.Table:
        """All files as a table of LISTING_SCHEMA, sorted by label and path.

        Raises:
            InputError: a folder cannot be read, the name of a class is not UTF-8, a class
                folder is a link, or the folder is a link that leaves the root.
        """
        batches = self._remote() if is_remote(self._folder) else self._local()
        # Sorted class by class: sorting all rows at once would take several times the memory.
        classes = [
            pa.Table.from_batches(members, LISTING_SCHEMA).sort_by("path")
            for _, members in groupby(batches, key=lambda batch: batch["label"][0].as_py())
        ]
        return pa.concat_tables(sorted(classes, key=_label) or [LISTING_SCHEMA.empty_table()])

    def _batch(self, label: str, paths: list[str], sizes: list[int], times: list[int]) -> pa.RecordBatch:
        same = [pa.repeat(pa.scalar(text, pa.string()), len(paths)) for text in (self.split, label)]
        others = [pa.array(paths, pa.string()), pa.array(sizes, pa.int64()), _nanoseconds(times)]
        return pa.record_batch([*same, *others], schema=LISTING_SCHEMA)

    def _local(self) -> Iterator[pa.RecordBatch]:
        links = []
        with _confined(self._root, self._below) as confined, self._open_folder(confined, "") as (_, entries):
            for entry in entries:
                path = os.path.join(self._folder, entry.name)
                if _is_litter(entry.name) or not _is_folder(entry):
                    self.ignored.append(self._prefix + escape_name(os.fsencode(entry.name)))
                elif entry.is_symlink():
                    links.append(f"{path}, a link to {os.path.realpath(path)}")
                else:
                    yield from self._local_class(confined, entry.name)
        if links:
            raise InputError(
                [
                    f"{len(links)} class folders of {self._folder} are links, which are not followed:",
                    *(f"  {link}" for link in links[:5]),
                    "Put the folders themselves there, or mount them there.",
                ],
                links,
            )

    def _local_class(self, confined: ConfinedFolder, name: str) -> Iterator[pa.RecordBatch]:
        try:
            label = os.fsencode(name).decode("utf-8")
        except UnicodeDecodeError as error:
            folder = os.fsencode(os.path.join(self._folder, name))
            raise InputError(f"the class folder {folder!r} has a name that is not UTF-8. Rename it.") from error
        empty = True
        for files in self._walk(confined, name):
            empty = False
            yield self._batch(label, *files)
        if empty:
            self.empty.append(label)

    def _walk(self, confined: ConfinedFolder, name: str) -> Iterator[tuple[list[str], list[int], list[int]]]:
        """Paths, sizes and times of everything except folders below the class folder, whatever kind of file it is.

        Files are processed in batches, so that most of the time is spent in system calls.
        """
        below = [name]
        while below:
            folder = below.pop()
            try:
                yield from self._files(confined, folder, below)
            except _GoneError as error:
                # Listed, so that reading rejects it by name: a folder replaced by a link must not hide its files.
                if error.is_link:
                    yield [self._escaped(folder)], [0], [0]

    def _files(
        self, confined: ConfinedFolder, folder: str, below: list[str]
    ) -> Iterator[tuple[list[str], list[int], list[int]]]:
        """The same for a single folder; its subfolders are added to ``below``."""
        prefix = self._escaped(folder) + "/"
        with self._open_folder(confined, folder) as (descriptor, entries):
            while chunk := list(islice(entries, _CHUNK)):
                found = [entry for entry in chunk if not _is_litter(entry.name)]
                if len(found) < len(chunk):
                    litter = escape_names([entry.name for entry in chunk if _is_litter(entry.name)])
                    self.ignored += [prefix + name for name in litter]
                found, statuses = self._statuses(folder, descriptor, found)
                kinds = {stat.S_IFMT(status.st_mode) for status in statuses}
                if stat.S_IFLNK in kinds:
                    statuses = [
                        _resolved_status(confined, f"{folder}/{entry.name}", status)
                        for entry, status in zip(found, statuses, strict=True)
                    ]
                names = escape_names([entry.name for entry in found])
                if stat.S_IFDIR in kinds:
                    folders = [stat.S_ISDIR(status.st_mode) for status in statuses]
                    below += [f"{folder}/{entry.name}" for entry in compress(found, folders)]
                    files = list(map(not_, folders))
                    names, statuses = list(compress(names, files)), list(compress(statuses, files))
                if names:
                    sizes, times = [one.st_size for one in statuses], [one.st_mtime_ns for one in statuses]
                    yield [prefix + name for name in names], sizes, times

    def _escaped(self, path: str) -> str:
        return self._prefix + escape_name(os.fsencode(path))

    @contextmanager
    def _open_folder(self, confined: ConfinedFolder, path: str) -> Iterator[tuple[int, Iterator[os.DirEntry[str]]]]:
        """A folder's descriptor and its entries.

        Raises:
            InputError: the folder cannot be read.
            _GoneError: it lies below a class folder and is no longer a folder.
        """
        try:
            descriptor = confined.open_folder(os.fsencode(path))
            try:
                with os.scandir(descriptor) as entries:
                    yield descriptor, entries
            finally:
                os.close(descriptor)
        except OSError as error:
            if error.errno in _GONE and "/" in path:
                raise _GoneError(is_link=error.errno == errno.ELOOP) from error
            raise self._unreadable(path, error) from error

    def _statuses(
        self, folder: str, descriptor: int, entries: list[os.DirEntry[str]]
    ) -> tuple[list[os.DirEntry[str]], list[os.stat_result]]:
        """The entries and their statuses, without entries removed since they were listed."""
        try:
            try:
                return entries, [entry.stat(follow_symlinks=False) for entry in entries]
            except FileNotFoundError:
                there = [entry for entry in entries if _is_there(descriptor, entry.name)]
                return there, [entry.stat(follow_symlinks=False) for entry in there]
        except OSError as error:
            raise self._unreadable(os.path.join(folder, error.filename or ""), error) from error

    def _unreadable(self, path: str, error: OSError) -> ExplainedError:
        if isinstance(error, PermissionError):
            todo = "Give yourself the right to read it"
        else:
            todo = "Run again if the folder was changing; otherwise repair it, or move it away"
        where = os.path.join(self._folder, path) if path else self._folder
        return store_failure(where, error, f"{where} cannot be read: {error.strerror}.", todo)

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
                if "/" not in path or any(_is_litter(part) for part in path.split("/")):
                    self.ignored.append(text)
                    continue
                paths.append(text)
                sizes.append(info.size)
                times.append(info.mtime_ns)
            if paths:
                yield self._batch(label, paths, sizes, times)


def _nanoseconds(times: list[int]) -> pa.Array:
    """The times as int64, clamped to its maximum in 2262."""
    try:
        return pa.array(times, pa.int64())
    except (OverflowError, pa.ArrowInvalid):
        return pa.array([min(time, LATEST_NS) for time in times], pa.int64())


def _label(table: pa.Table) -> str:
    return table["label"][0].as_py()


def _remote_files(folder: str, *, recursive: bool) -> list[pafs.FileInfo]:
    store, path = filesystem(folder)
    try:
        return store.get_file_info(pafs.FileSelector(path, recursive=recursive, allow_not_found=True))
    except OSError as error:
        raise store_failure(folder, error, f"{folder} cannot be listed: {error}.") from error


class _GoneError(Exception):
    """A folder was removed or replaced after it was listed."""

    def __init__(self, *, is_link: bool) -> None:
        super().__init__()
        self.is_link = is_link


def _confined(root: str, folder: str) -> ConfinedFolder:
    try:
        return ConfinedFolder(root, folder)
    except LinkError as error:
        raise InputError(
            f"the folder {join_uri(root, folder)} is {error}. Put the folder itself there, mount it there, or give the "
            "folder that holds it as the source."
        ) from error
    except OSError as error:
        where = join_uri(root, folder)
        failure = f"the folder {where} cannot be read: {error.strerror}."
        todo = "Correct its path, or give yourself the right to read it"
        raise store_failure(where, error, failure, todo) from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder or a link to one; False if the link is broken or inaccessible."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _is_there(folder: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _resolved_status(confined: ConfinedFolder, path: str, status: os.stat_result) -> os.stat_result:
    """The status of a file; for a link to a regular file that of its target, for other links their own."""
    if stat.S_ISLNK(status.st_mode):
        with suppress(OSError, LinkError):
            target = confined.status_of_target(os.fsencode(path))
            return target if stat.S_ISREG(target.st_mode) else status
    return status


def _is_litter(name: str) -> bool:
    return name.startswith(".") or name.lower() in _LITTER
