"""Reading raw files from a folder or an object store."""

import errno
import hashlib
import os
import re
import stat
import time
from contextlib import suppress
from datetime import datetime
from types import TracebackType
from typing import NamedTuple, Self

import pyarrow as pa
import pyarrow.fs as pafs

from lance_pipeline.errors import ExplainedError, InputError
from lance_pipeline.imaging.rejection import RejectedFileError
from lance_pipeline.sources.file_names import unescape_name
from lance_pipeline.storage.confined import ConfinedFolder, LinkError
from lance_pipeline.storage.object_store import filesystem, is_remote, join_uri, store_failure
from lance_pipeline.storage.outages import is_outage
from lance_pipeline.storage.schema import LATEST_NS
from lance_pipeline.storage.uris import Place, normalized_uri

# Arrow's name for denied access in its messages; its errors have no numbers.
_REFUSED = "ACCESS_DENIED"
# Larger files are rejected without reading them: no image of MAX_PIXELS needs as much.
MAX_BYTES = 1 << 30
# Attempts to read a file that changes while it is read.
_ATTEMPTS = 3
_PART = 1 << 20
_SECOND, _SETTLED_SECONDS = 10**9, 2


class Content(NamedTuple):
    """A file's bytes, with its size in bytes and its modification time in nanoseconds since 1970 when read."""

    data: bytes
    size: int
    mtime_ns: int


class FileReader:
    """Reads the files of one folder by their escaped paths; safe to share between threads, and to pickle.

    Args:
        root: the dataset's folder or URI; no link may lead out of it.
        folder: the folder below ``root`` that paths are relative to.

    Raises:
        InputError: the folder cannot be opened, or is a link that leaves ``root``.
    """

    def __init__(self, root: Place, folder: str) -> None:
        root = normalized_uri(root)
        self.base = join_uri(root, folder)
        self._root, self._folder = root, folder
        self._place: pafs.FileSystem | ConfinedFolder
        if is_remote(root):
            self._place, self._path = filesystem(self.base)
            return
        try:
            self._place = ConfinedFolder(root, folder)
        except LinkError as error:
            raise InputError(f"the folder {self.base} is {error}. Put the folder itself there.") from error
        except OSError as error:
            failure = f"cannot read the folder {self.base}: {error.strerror}."
            todo = "Repair the storage or access to it, and run again"
            raise store_failure(self.base, error, failure, todo) from error

    def read(self, path: str, size: int, mtime_ns: int, growth: int = MAX_BYTES) -> Content:
        """The file's content.

        Args:
            path: of the file, escaped.
            size: of the file as listed, in bytes.
            mtime_ns: its modification time as listed.
            growth: the number of bytes by which it may have grown since.

        Raises:
            RejectedFileError: the file does not exist, or may not be read.
            InputError: the storage failed.
            ServiceError: the storage is away.
        """
        if isinstance(self._place, pafs.FileSystem):
            return self._read_remote(self._place, path, size, mtime_ns, growth)
        try:
            descriptor = self._place.open(unescape_name(path) if "%" in path else path.encode())
        except LinkError as error:
            raise RejectedFileError("link", str(error)) from error
        except OSError as error:
            raise self._rejection(path, error) from error
        try:
            return _read_unchanged(descriptor, size, mtime_ns) or _read_settled(descriptor, size, growth)
        except OSError as error:
            raise self._rejection(path, error) from error
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Close the open descriptors."""
        if isinstance(self._place, ConfinedFolder):
            self._place.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[type[Self], tuple[str, str]]:
        return type(self), (self._root, self._folder)

    def _read_remote(self, store: pafs.FileSystem, path: str, size: int, mtime_ns: int, growth: int) -> Content:
        name = f"{self._path}/{unescape_name(path).decode()}"
        _require_size(size, size, growth)
        before = None
        try:
            for attempt in range(_ATTEMPTS):
                if attempt == _ATTEMPTS - 1:
                    # Long enough for another write to change the object's time.
                    time.sleep(_SETTLED_SECONDS + 1)
                with store.open_input_file(name) as file:
                    found = _Version.of(file)
                    _require_size(found.size, size, growth)
                    data = file.read()
                # Stores report whole seconds: a recent object may have been replaced twice with the same time.
                calm = found.is_settled() or (data == before and not found.is_named_by_digest())
                if found.is_of(data) or (calm and _Version.at(store, name) == found):
                    return Content(data, len(data), found.mtime_ns(size, mtime_ns))
                before = data
        except FileNotFoundError as error:
            raise _missing() from error
        except OSError as error:
            if self._refuses_alone(store, error):
                raise RejectedFileError("unreadable", "the object store denies access to it") from error
            raise self._storage_failure(path, error) from error
        raise _changing()

    def _refuses_alone(self, store: pafs.FileSystem, error: OSError) -> bool:
        """Whether the store denies access to this object only, and not to everything, such as with an expired key."""
        if _REFUSED not in str(error):
            return False
        with suppress(OSError):
            return bool(store.get_file_info(pafs.FileSelector(self._path)))
        return False

    def _rejection(self, path: str, error: OSError) -> Exception:
        """The rejection if the error concerns only this file; errors of the storage do not reject a file."""
        if isinstance(error, PermissionError):
            return RejectedFileError("unreadable", f"{error.strerror}: the file may not be read")
        if isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError):
            return _missing()
        if isinstance(error, BlockingIOError):
            return RejectedFileError("unreadable", "another program has locked it")
        if error.errno == errno.ENXIO:
            return _not_a_file()
        return self._storage_failure(path, error)

    def _storage_failure(self, path: str, error: OSError) -> ExplainedError:
        failure = f"cannot read {join_uri(self.base, path)}: {error.strerror or error}."
        if is_remote(self._root) or is_outage(error):
            return store_failure(self.base, error, f"{failure} Everything read so far is kept.")
        return InputError(
            f"{failure} Repair the storage or access to it, and run again; everything read so far is kept."
        )


class _Version(NamedTuple):
    """The size and headers of an object when it was opened."""

    size: int
    headers: dict[str, bytes]

    @classmethod
    def of(cls, file: pa.NativeFile) -> Self:
        return cls(file.size(), dict(file.metadata() or {}))

    @classmethod
    def at(cls, store: pafs.FileSystem, name: str) -> Self:
        with store.open_input_file(name) as file:
            return cls.of(file)

    def is_of(self, data: bytes) -> bool:
        """Whether these are certainly its bytes: in most stores the ETag is the MD5."""
        digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
        return self.headers.get("ETag", b"").strip(b'"') == digest.encode()

    def is_named_by_digest(self) -> bool:
        """Whether the ETag looks like an MD5; that of an encrypted object may look like one without being one."""
        return re.fullmatch(rb'"?[0-9a-f]{32}"?', self.headers.get("ETag", b"")) is not None

    def mtime_ns(self, size: int, listed_ns: int) -> int:
        """The listed time, unless the object has changed since; stores report whole seconds only."""
        seconds = self._modified()
        if seconds is None or (self.size, seconds) == (size, listed_ns // _SECOND):
            return listed_ns
        return seconds * _SECOND

    def is_settled(self) -> bool:
        """Whether the last write was long enough ago that another write would change its time."""
        seconds = self._modified()
        return seconds is not None and time.time() - seconds > _SETTLED_SECONDS

    def _modified(self) -> int | None:
        modified = self.headers.get("Last-Modified")
        return None if modified is None else round(datetime.fromisoformat(modified.decode()).timestamp())


def _read_unchanged(descriptor: int, size: int, mtime_ns: int) -> Content | None:
    """The content of a file that has not changed since it was listed; None if it has."""
    if size > MAX_BYTES:
        return None
    try:
        data = os.read(descriptor, size + 1)
    except OSError:
        return None
    # Examined after reading, to detect changes during the read.
    status = os.fstat(descriptor)
    if len(data) == size == status.st_size and status.st_mtime_ns == mtime_ns and stat.S_ISREG(status.st_mode):
        return Content(data, size, mtime_ns)
    return None


def _read_settled(descriptor: int, listed: int, growth: int) -> Content:
    """The consistent content of a file: it is read again if it changes while it is read.

    Raises:
        RejectedFileError: it is not a regular file, is too large, or keeps changing.
        OSError: it cannot be read.
    """
    before = os.fstat(descriptor)
    if not stat.S_ISREG(before.st_mode):
        raise _not_a_file()
    for _ in range(_ATTEMPTS):
        _require_size(before.st_size, listed, growth)
        os.lseek(descriptor, 0, os.SEEK_SET)
        data = os.read(descriptor, before.st_size + 1)
        after = os.fstat(descriptor)
        if len(data) != before.st_size and _same(before, after):
            # The file system returns partial reads, or does not know the size.
            data = _read_rest(descriptor, data)
            after = os.fstat(descriptor)
        if _same(before, after):
            return Content(data, len(data), min(after.st_mtime_ns, LATEST_NS))
        before = after
    raise _changing()


def _same(before: os.stat_result, after: os.stat_result) -> bool:
    return (before.st_size, before.st_mtime_ns, before.st_ctime_ns) == (
        after.st_size,
        after.st_mtime_ns,
        after.st_ctime_ns,
    )


def _read_rest(descriptor: int, data: bytes) -> bytes:
    parts, total = [data], len(data)
    while part := os.read(descriptor, _PART):
        parts.append(part)
        total += len(part)
        if total > MAX_BYTES:
            raise _too_large(total)
    return b"".join(parts)


def _require_size(size: int, listed: int, growth: int) -> None:
    """Raise RejectedFileError if the file has more bytes than may be read."""
    if size > MAX_BYTES:
        raise _too_large(size)
    if size > listed + growth:
        raise RejectedFileError(
            "unreadable",
            f"it has grown from {listed} to {size} bytes since it was listed, beyond the memory reserved for it; list "
            "the folder again",
        )


def _missing() -> RejectedFileError:
    return RejectedFileError("missing", "it was listed, but no longer exists")


def _not_a_file() -> RejectedFileError:
    return RejectedFileError("not_a_file", "neither a file nor a folder, such as a pipe or a device")


def _changing() -> RejectedFileError:
    return RejectedFileError("unreadable", f"it changed during each of {_ATTEMPTS} attempts to read it")


def _too_large(size: int) -> RejectedFileError:
    return RejectedFileError("too_large", f"{size} bytes exceed the limit of {MAX_BYTES} bytes")
