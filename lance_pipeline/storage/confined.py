"""Open files below a folder and nowhere else, even while other processes replace folders and links.

A checked path may lead elsewhere a moment later, when somebody replaces one of its folders or files by a link.
Therefore everything is opened relative to the descriptor of a folder: by one system call where Linux has ``openat2``,
otherwise component by component. File systems mounted below the folder count as part of it.
"""

import ctypes
import errno
import os
import platform
import stat
import sys
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

# From Linux's fcntl.h and openat2.h; the system call has the same number on these machines.
_MACHINES = {"x86_64", "aarch64", "riscv64", "ppc64le", "s390x"}
_CALL, _NO_MAGICLINKS, _NO_SYMLINKS, _BENEATH = 437, 0x02, 0x04, 0x08
_LONGEST = 4095
# Folders kept open; a process can usually have a thousand descriptors.
_MOST_FOLDERS = 128
_NO_NAMES = (b"", b".", b"..")
# Traversing a folder needs no permission to list it, where the system has O_PATH.
_PASSED = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
_LISTED = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# Without O_NONBLOCK, opening a pipe would wait for its writer.
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_LOOK = os.O_PATH | os.O_CLOEXEC if hasattr(os, "O_PATH") else _FILE


class LinkError(Exception):
    """A link leads outside of the root, to a folder or nowhere; the message continues "it is …"."""


class ConfinedFolder:
    """Opens files of a folder, confined to a root; safe to share between threads.

    Links to files below the root are followed.

    Args:
        root: the root; it may be a link.
        folder: the folder, relative to the root; a link to a folder below the root is followed.

    Raises:
        LinkError: the folder is a link that leaves the root.
        OSError: one of them cannot be opened.
    """

    def __init__(self, root: str, folder: str = "") -> None:
        self._name = os.fsencode(folder).strip(b"/")
        self._open: list[int] = []
        self._folders: dict[bytes, int] = {}
        try:
            self._root = self._keep_open(os.open(root, _PASSED))
            # Used to resolve links; what is opened depends on the descriptor alone.
            self._real = os.path.realpath(os.fsencode(root))
            self._folder = self._keep_open(self._follow(self._name, _PASSED))
        except BaseException:
            self.close()
            raise

    def open(self, path: bytes) -> int:
        """A descriptor of the file at ``path`` below the folder; opening a pipe does not wait.

        Raises:
            LinkError: it is, or lies below, a link that leads outside of the root, to a folder or nowhere.
            OSError: it cannot be opened.
        """
        # Where the folder is already open, Python's own call is faster.
        folder, _, name = path.rpartition(b"/")
        at = self._folders.get(folder) or self._keep_folder(folder)
        if at and name not in _NO_NAMES:
            with suppress(OSError, ValueError):
                return os.open(name, _FILE | os.O_NOFOLLOW, dir_fd=at)
        try:
            return open_below(self._folder, path, _FILE)
        except OSError as error:
            if error.errno == errno.EXDEV:
                raise LinkError(f"a path that leaves the folder {_shown(self._real)}") from error
            if error.errno != errno.ELOOP:
                raise
        return self._open_link(self._below_root(path))

    def open_folder(self, path: bytes) -> int:
        """A descriptor for listing the folder at ``path`` below this one; an empty path is this folder.

        Raises:
            OSError: it cannot be opened; ``ELOOP`` if it or a parent is a link.
        """
        return open_below(self._folder, path, _LISTED)

    def status_of_target(self, path: bytes) -> os.stat_result:
        """The status of the file that the link at ``path`` leads to; nothing is read.

        Raises:
            LinkError: it leads outside of the root.
            OSError: it leads nowhere, or cannot be examined.
        """
        descriptor = self._follow(self._below_root(path), _LOOK)
        try:
            return os.fstat(descriptor)
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Close the descriptors."""
        self._folders.clear()
        while self._open:
            os.close(self._open.pop())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _keep_open(self, descriptor: int) -> int:
        self._open.append(descriptor)
        return descriptor

    def _keep_folder(self, folder: bytes) -> int | None:
        """The descriptor of a folder below this one, kept open; None if it cannot be opened or too many are open."""
        if len(self._folders) >= _MOST_FOLDERS:
            return None
        try:
            descriptor = open_below(self._folder, folder, _PASSED)
        except OSError:
            return None
        if self._folders.setdefault(folder, descriptor) == descriptor:
            return self._keep_open(descriptor)
        os.close(descriptor)
        return self._folders[folder]

    def _below_root(self, path: bytes) -> bytes:
        return self._name + b"/" + path if self._name else path

    def _target(self, path: bytes) -> bytes:
        whole = os.path.join(self._real, path)
        try:
            return os.path.realpath(whole)
        except OSError:
            # The link was replaced while it was read.
            return whole

    def _leaves(self, target: bytes) -> bool:
        return not os.path.join(target, b"").startswith(os.path.join(self._real, b""))

    def _open_link(self, path: bytes) -> int:
        try:
            descriptor = self._follow(path, _FILE)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV):
                raise
            raise LinkError(f"a link that leads nowhere, to {_shown(self._target(path))}") from error
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise LinkError(f"a link to the folder {_shown(self._target(path))}")
        return descriptor

    def _follow(self, path: bytes, flags: int) -> int:
        """Open ``path``, relative to the root, following links that stay below the root.

        Raises:
            LinkError: it leads outside of the root.
            OSError: it cannot be opened.
        """
        if _openat2 is not None and len(path) <= _LONGEST:
            with suppress(OSError):
                return _openat2(self._root, path or b".", flags, _BENEATH | _NO_MAGICLINKS)
        # Either an absolute link that stays below the root, or an error that the call below raises again.
        target = self._target(path)
        if self._leaves(target):
            raise LinkError(f"a link that leaves the folder {_shown(self._real)}, to {_shown(target)}")
        return open_below(self._root, target[len(self._real) :].lstrip(b"/"), flags)


def open_below(folder: int, path: bytes, flags: int) -> int:
    """Open ``path`` below an open folder without following any link, and return its descriptor.

    Args:
        folder: the descriptor of the folder.
        path: may exceed the system's maximum length; empty for the folder itself.
        flags: as for ``os.open``.

    Raises:
        OSError: it cannot be opened; ``ELOOP`` if a component of the path is a link, ``EXDEV`` if the path could
            leave the folder.
    """
    if path.startswith(b"/") or (b".." in path and b".." in path.split(b"/")):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
    if b"\0" in path:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    if _openat2 is not None and len(path) <= _LONGEST:
        return _openat2(folder, path or b".", flags, _BENEATH | _NO_SYMLINKS)
    *parents, name = path.split(b"/")
    at = folder
    try:
        for parent in parents:
            above, at = at, _open_unlinked(at, parent, _PASSED)
            if above != folder:
                os.close(above)
        return _open_unlinked(at, name, flags)
    finally:
        if at != folder:
            os.close(at)


def _open_unlinked(folder: int, name: bytes, flags: int) -> int:
    try:
        return os.open(name or b".", flags | os.O_NOFOLLOW, dir_fd=folder)
    except NotADirectoryError as error:
        # With O_DIRECTORY Linux reports a link as ENOTDIR. If it is a folder by now, it was a link before.
        kind = stat.S_IFMT(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
        if kind in (stat.S_IFLNK, stat.S_IFDIR):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from error
        raise


class _How(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def _load_openat2() -> Callable[[int, bytes, int, int], int] | None:
    """Linux's ``openat2``, which Python lacks; None where the system does not have it or forbids it."""
    if sys.platform != "linux" or platform.machine() not in _MACHINES:
        return None
    call = ctypes.CDLL(None, use_errno=True).syscall
    call.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.POINTER(_How), ctypes.c_size_t]
    call.restype = ctypes.c_long
    size, hows = ctypes.sizeof(_How), {}

    def openat2(folder: int, path: bytes, flags: int, resolve: int) -> int:
        how = hows.get((flags, resolve)) or hows.setdefault((flags, resolve), ctypes.pointer(_How(flags, 0, resolve)))
        while (descriptor := call(_CALL, folder, path, how, size)) < 0:
            number = ctypes.get_errno()
            if number != errno.EINTR:
                raise OSError(number, os.strerror(number))
        return descriptor

    root = os.open("/", _PASSED)
    try:
        os.close(openat2(root, b".", _PASSED, _BENEATH | _NO_SYMLINKS))
    except OSError:
        return None
    finally:
        os.close(root)
    return openat2


def _shown(path: bytes) -> str:
    """The path as text for people, even if its bytes are not UTF-8."""
    return path.decode("utf-8", "backslashreplace")


_openat2 = _load_openat2()
