"""The bytes of one raw file, from a folder or an object store."""

import errno
import os
import stat
from contextlib import suppress
from typing import NamedTuple

import pyarrow.fs as pafs

from lance_pipeline.errors import InputError
from lance_pipeline.images.names import join_escaped, unescape_name
from lance_pipeline.images.object_store import filesystem, is_remote, join_uri
from lance_pipeline.images.rejection import RejectedFileError
from lance_pipeline.images.schema import LATEST_NS

# The name that Arrow gives to a store's refusal; its errors have no numbers.
_REFUSED = "ACCESS_DENIED"
# Larger files are refused unread: no picture of MAX_PIXELS needs as much.
MAX_BYTES = 1 << 30


class Content(NamedTuple):
    """A file's bytes, with its size in bytes and its time in nanoseconds since 1970 when they were read."""

    data: bytes
    size: int
    mtime_ns: int


class FileReader:
    """Reads the files of one folder by their escaped paths; safe to share between threads.

    Args:
        root: the dataset's folder or URI, which no link may leave.
        folder: the folder below ``root`` that the paths are relative to.
    """

    def __init__(self, root: str, folder: str) -> None:
        self.base = join_uri(root, folder)
        self._root = root
        self._filesystem, self._path = filesystem(self.base) if is_remote(root) else (None, "")

    def read(self, path: str, size: int, mtime_ns: int) -> Content:
        """The file's content; ``size`` and ``mtime_ns`` are the listing's.

        Raises:
            RejectedFileError: there is no such file, or one that may not be read.
            InputError: the storage failed.
        """
        if self._filesystem is None:
            return self._read_local(path)
        if size > MAX_BYTES:
            raise _too_large(size)
        try:
            with self._filesystem.open_input_file(f"{self._path}/{unescape_name(path).decode()}") as file:
                data = file.read()
        except FileNotFoundError as error:
            raise _missing() from error
        except OSError as error:
            if self._refuses_alone(self._filesystem, error):
                raise RejectedFileError("unreadable", "the store refuses to give it out") from error
            raise self._storage_failure(path, error) from error
        return Content(data, len(data), mtime_ns)

    def _refuses_alone(self, store: pafs.FileSystem, error: OSError) -> bool:
        """Whether the store refuses one object, and not everything by now, as when a key has expired."""
        if _REFUSED not in str(error):
            return False
        with suppress(OSError):
            return bool(store.get_file_info(pafs.FileSelector(self._path)))
        return False

    def _read_local(self, path: str) -> Content:
        name = join_escaped(self.base, path)
        try:
            # Without O_NONBLOCK the opening of a pipe would wait for its writer.
            descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            if not os.path.islink(name):
                raise self._rejection(path, error) from error
            descriptor = self._open_link(path, name)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise RejectedFileError("not_a_file", "neither a file nor a folder, such as a pipe or a device")
            if status.st_size > MAX_BYTES:
                raise _too_large(status.st_size)
            data = _read_whole(descriptor, status.st_size)
        except OSError as error:
            raise self._rejection(path, error) from error
        finally:
            os.close(descriptor)
        return Content(data, len(data), min(status.st_mtime_ns, LATEST_NS))

    def _open_link(self, path: str, name: bytes) -> int:
        target, root = os.path.realpath(name), os.path.realpath(os.fsencode(self._root))
        shown = target.decode("utf-8", "backslashreplace")
        if not target.startswith(os.path.join(root, b"")):
            raise RejectedFileError("link", f"a link that leaves the dataset's folder, to {shown}")
        if os.path.isdir(target):
            raise RejectedFileError("link", f"a link to the folder {shown}")
        try:
            return os.open(target, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ELOOP):
                raise RejectedFileError("link", f"a link that leads nowhere, to {shown}") from error
            raise self._rejection(path, error) from error

    def _rejection(self, path: str, error: OSError) -> Exception:
        """What an error says of the file alone; an error of the storage is no reason to reject a file."""
        if isinstance(error, FileNotFoundError):
            return _missing()
        if isinstance(error, PermissionError):
            return RejectedFileError("unreadable", f"{error.strerror}: the file may not be read")
        if isinstance(error, IsADirectoryError | NotADirectoryError):
            return _missing()
        if error.errno == errno.ENXIO:
            return RejectedFileError("not_a_file", "neither a file nor a folder, such as a pipe or a device")
        return self._storage_failure(path, error)

    def _storage_failure(self, path: str, error: OSError) -> InputError:
        return InputError(
            f"cannot read {join_uri(self.base, path)}: {error.strerror or error}. Mend the storage or the access "
            "to it and run again; what has been read so far is kept."
        )


def _read_whole(descriptor: int, size: int) -> bytes:
    """All bytes; one read is enough unless the file is growing or the file system reads in parts."""
    data = os.read(descriptor, size + 1)
    if len(data) == size:
        return data
    parts = [data]
    while more := os.read(descriptor, 1 << 20):
        parts.append(more)
    return b"".join(parts)


def _missing() -> RejectedFileError:
    return RejectedFileError("missing", "it was listed, but is gone")


def _too_large(size: int) -> RejectedFileError:
    return RejectedFileError("too_large", f"{size} bytes are more than the limit of {MAX_BYTES} bytes")
