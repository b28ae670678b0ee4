"""Open what lies below a folder and nothing else, whatever happens to links and folders meanwhile.

A path that was checked may lead elsewhere a moment later, as others swap its folders or files for links. Hence
everything is opened from the descriptor of a folder: by one system call where Linux has ``openat2``, else part by
part. File systems that are mounted below the folder belong to it.
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

# From Linux's fcntl.h and openat2.h; the number of the call is the same on these machines.
_MACHINES = {"x86_64", "aarch64", "riscv64", "ppc64le", "s390x"}
_CALL, _NO_MAGICLINKS, _NO_SYMLINKS, _BENEATH = 437, 0x02, 0x04, 0x08
_LONGEST = 4095
# As many folders stay open; one process may mostly have a thousand descriptors.
_MOST_FOLDERS = 128
_NO_NAMES = (b"", b".", b"..")
# A folder that is only gone through needs no right to list it, where the system knows the difference.
_PASSED = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
_LISTED = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# Without O_NONBLOCK opening a pipe would wait for its writer.
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_LOOK = os.O_PATH | os.O_CLOEXEC if hasattr(os, "O_PATH") else _FILE


class LinkError(Exception):
    """A link leads where nothing may be opened; the message, such as "a link that leaves …", says where."""


class ConfinedFolder:
    """A folder from which only what lies below a root is opened; safe to share between threads.

    Links that lead to files below the root are followed.

    Args:
        root: the root; it may be a link.
        folder: the folder, relative to the root; a link that leads below the root is followed.

    Raises:
        LinkError: the folder is a link that leaves the root.
        OSError: one of them cannot be opened.
    """

    def __init__(self, root: str, folder: str = "") -> None:
        self._name = os.fsencode(folder).strip(b"/")
        self._open: list[int] = []
        self._folders: dict[bytes, int] = {}
        try:
            self._root = self._kept(os.open(root, _PASSED))
            # Names what links lead to; what is opened depends on the descriptor alone.
            self._real = os.path.realpath(os.fsencode(root))
            self._folder = self._kept(self._follow(self._name, _PASSED))
        except BaseException:
            self.close()
            raise

    def open(self, path: bytes) -> int:
        """A descriptor of the file at ``path`` below the folder; opening a pipe does not wait.

        Raises:
            LinkError: it is a link, or below one, that leads out of the root, to a folder or nowhere.
            OSError: it cannot be opened.
        """
        # Where the folder is open already, Python's own call is the faster one.
        folder, _, name = path.rpartition(b"/")
        at = self._folders.get(folder) or self._kept_folder(folder)
        if at and name not in _NO_NAMES:
            with suppress(OSError, ValueError):
                return os.open(name, _FILE | os.O_NOFOLLOW, dir_fd=at)
        try:
            return open_below(self._folder, path, _FILE)
        except OSError as error:
            if error.errno == errno.EXDEV:
                raise LinkError(f"its path leaves the folder {_shown(self._real)}") from error
            if error.errno != errno.ELOOP:
                raise
        return self._open_link(self._below_root(path))

    def open_folder(self, path: bytes) -> int:
        """A descriptor of the folder at ``path`` below this one, for listing it; empty for this one itself.

        Raises:
            OSError: it cannot be opened; ``ELOOP`` where it or a folder on the way is a link.
        """
        return open_below(self._folder, path, _LISTED)

    def status_of_target(self, path: bytes) -> os.stat_result:
        """What the system says of the file that the link at ``path`` leads to; nothing is read.

        Raises:
            LinkError: it leads out of the root.
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

    def _kept(self, descriptor: int) -> int:
        self._open.append(descriptor)
        return descriptor

    def _kept_folder(self, folder: bytes) -> int | None:
        """The descriptor of a folder below this one, which stays open; None if it has none or too many are open."""
        if len(self._folders) >= _MOST_FOLDERS:
            return None
        try:
            descriptor = open_below(self._folder, folder, _PASSED)
        except OSError:
            return None
        if self._folders.setdefault(folder, descriptor) == descriptor:
            return self._kept(descriptor)
        os.close(descriptor)
        return self._folders[folder]

    def _below_root(self, path: bytes) -> bytes:
        return self._name + b"/" + path if self._name else path

    def _target(self, path: bytes) -> bytes:
        whole = os.path.join(self._real, path)
        try:
            return os.path.realpath(whole)
        except OSError:
            # A link that was replaced while it was read.
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
        """Open what ``path``, relative to the root, leads to by links that stay below the root.

        Raises:
            LinkError: it leads out.
            OSError: it cannot be opened.
        """
        if _openat2 is not None and len(path) <= _LONGEST:
            with suppress(OSError):
                return _openat2(self._root, path or b".", flags, _BENEATH | _NO_MAGICLINKS)
        # An absolute link that stays below, or an error, which the walk repeats.
        target = self._target(path)
        if self._leaves(target):
            raise LinkError(f"a link that leaves the folder {_shown(self._real)}, to {_shown(target)}")
        return open_below(self._root, target[len(self._real) :].lstrip(b"/"), flags)


def open_below(folder: int, path: bytes, flags: int) -> int:
    """Open what is at ``path`` below an open folder, through folders that are no links, and return its descriptor.

    Args:
        folder: the descriptor of the folder.
        path: may be longer than the system takes at once; empty for the folder itself.
        flags: as of ``os.open``.

    Raises:
        OSError: it cannot be opened; ``ELOOP`` where a part of the path is a link, ``EXDEV`` where the path could
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
        # Asked for a folder, Linux does not say that it is a link; if it is a folder now, it was one.
        kind = stat.S_IFMT(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
        if kind in (stat.S_IFLNK, stat.S_IFDIR):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from error
        raise


class _How(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def _openat2_here() -> Callable[[int, bytes, int, int], int] | None:
    """Linux's call of that name, which Python lacks; None on other systems, older ones and where it is forbidden."""
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
    """The path as text for people, also where its bytes are not UTF-8."""
    return path.decode("utf-8", "backslashreplace")


_openat2 = _openat2_here()
