"""File locks that the operating system releases when their process ends."""

import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lance_pipeline.errors import ExplainedError, InputError, ServiceError, Stopped
from lance_pipeline.storage.full_disk import full_disk, is_full_disk
from lance_pipeline.storage.outages import is_outage
from lance_pipeline.storage.private import open_private

_POLL_SECONDS = 0.2
_ALREADY_LOCKED = (errno.EAGAIN, errno.EACCES)
_LONGEST_NOTE = 4096


class Lock:
    """A held lock; it is released explicitly or when the process ends, however it ends.

    Attributes:
        path: the lock file.
    """

    def __init__(self, path: str, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    def note(self, text: str) -> None:
        """Write a note about the holder into the lock file, for `read_note`.

        Raises:
            OSError: it cannot be written.
        """
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, text.encode(), 0)

    def release(self) -> None:
        """Release the lock."""
        os.close(self._descriptor)


def read_note(path: str) -> str:
    """The note of a lock's holder; empty if there is none yet."""
    file = open_private(path)
    try:
        return os.pread(file, _LONGEST_NOTE, 0).decode(errors="replace")
    finally:
        os.close(file)


def try_lock(path: str | Path, variable: str) -> Lock | None:
    """Lock a file without waiting; None if it is already locked, even by a thread of this process.

    Args:
        path: the lock file; created with its folder if missing, and never removed.
        variable: the environment variable that moves it elsewhere, for the error message.

    Raises:
        InputError: the file cannot be opened or locked.
        ServiceError: the server of its file system is away.
    """
    name = os.fspath(path)
    try:
        os.makedirs(os.path.dirname(name), exist_ok=True)
        while True:
            file = open_private(name)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # If the file was removed in the meantime, its lock no longer excludes anybody.
                if os.path.exists(name) and os.path.samestat(os.fstat(file), os.lstat(name)):
                    return Lock(name, file)
            except OSError as error:
                os.close(file)
                if error.errno in _ALREADY_LOCKED:
                    return None
                raise
            os.close(file)
    except OSError as error:
        raise unwritable(name, error, variable) from error


@contextmanager
def first_free(
    paths: Sequence[str],
    variable: str,
    waits_for: Callable[[], str],
    on_wait: Callable[[str], None],
    stop: Callable[[], str | None] = lambda: None,
) -> Iterator[Lock]:
    """Acquire the first free one of these locks and yield it; wait while all of them are held.

    Args:
        paths: the lock files, preferred one first; see `try_lock`.
        variable: the environment variable that moves them elsewhere, for the error message.
        waits_for: called while waiting; returns a description of what holds the locks.
        on_wait: called with that description, and again whenever it changes.
        stop: polled while waiting; a returned reason, such as ``SIGTERM``, ends the wait.

    Raises:
        Stopped: ``stop`` gave a reason.
        InputError: a file cannot be used.
    """
    reported = None
    while (lock := next(filter(None, (try_lock(path, variable) for path in paths)), None)) is None:
        if (text := waits_for()) != reported:
            on_wait(text)
            reported = text
        if reason := stop():
            raise Stopped(reason)
        time.sleep(_POLL_SECONDS)
    try:
        yield lock
    finally:
        lock.release()


@contextmanager
def locked_file(path: str | Path, variable: str) -> Iterator[None]:
    """Hold a lock within the context, after waiting silently for it; see `try_lock`.

    Raises:
        InputError: the file cannot be used.
    """
    with first_free([os.fspath(path)], variable, str, lambda text: None):
        yield


def unwritable(path: str, error: OSError, variable: str) -> ExplainedError:
    """The error for a file that cannot be written, in a folder set by an environment variable."""
    if is_full_disk(error, path):
        return full_disk(path)
    if is_outage(error):
        return ServiceError(f"cannot lock {path}: {error.strerror or error}. See that the server of this disk is up.")
    todo = f"Give yourself write permission there, or set {variable} to move it elsewhere."
    return InputError(f"cannot write {path}: {error.strerror or error}. {todo}")
