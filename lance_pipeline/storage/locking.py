"""Locks that die with their process: files that the operating system locks for the process that opened them."""

import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lance_pipeline.errors import InputError, Stopped
from lance_pipeline.storage.full_disk import full_disk, is_full_disk
from lance_pipeline.storage.private import open_private

# Seconds.
_LOOK_EVERY = 0.2
_HELD = (errno.EAGAIN, errno.EACCES)
_LONGEST_NOTE = 4096


class Lock:
    """A lock that is held; it is free again when it is released or the process ends, however it ends.

    Attributes:
        path: its file.
    """

    def __init__(self, path: str, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    def note(self, text: str) -> None:
        """Write into the file who holds the lock, for `read_note`.

        Raises:
            OSError: it cannot be written.
        """
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, text.encode(), 0)

    def release(self) -> None:
        """Give it up."""
        os.close(self._descriptor)


def read_note(path: str) -> str:
    """What the holder of a lock has written into its file; empty where it has not yet."""
    file = open_private(path)
    try:
        return os.pread(file, _LONGEST_NOTE, 0).decode(errors="replace")
    finally:
        os.close(file)


def try_lock(path: str | Path, variable: str) -> Lock | None:
    """Lock a file, unless somebody holds its lock; threads of one process keep each other out as well.

    Args:
        path: made, with its folder, where it is missing, and never removed.
        variable: the environment variable that moves it elsewhere, for the message.

    Raises:
        InputError: the file cannot be used; it is never waited for then.
    """
    name = os.fspath(path)
    try:
        os.makedirs(os.path.dirname(name), exist_ok=True)
        while True:
            file = open_private(name)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # A holder may have removed the file meanwhile: its lock keeps nobody out any more.
                if os.path.exists(name) and os.path.samestat(os.fstat(file), os.lstat(name)):
                    return Lock(name, file)
            except OSError as error:
                os.close(file)
                if error.errno in _HELD:
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
    """Hold the first of these locks that is free, and yield it; sleep while others hold them all.

    Args:
        paths: their files, the preferred one first; see `try_lock`.
        variable: the environment variable that moves them elsewhere, for the message.
        waits_for: asked, while others hold them, what is waited for.
        on_wait: called with its answer, and again when that has changed.
        stop: asked while it waits; a reason, such as ``SIGTERM``, ends the waiting.

    Raises:
        Stopped: ``stop`` gave a reason.
        InputError: a file cannot be used.
    """
    told = None
    while (lock := next(filter(None, (try_lock(path, variable) for path in paths)), None)) is None:
        if (text := waits_for()) != told:
            on_wait(text)
            told = text
        if reason := stop():
            raise Stopped(reason)
        time.sleep(_LOOK_EVERY)
    try:
        yield lock
    finally:
        lock.release()


@contextmanager
def locked_file(path: str | Path, variable: str) -> Iterator[None]:
    """Hold one lock, for which others are waited for in silence; see `try_lock`.

    Raises:
        InputError: the file cannot be used.
    """
    with first_free([os.fspath(path)], variable, str, lambda text: None):
        yield


def unwritable(path: str, error: OSError, variable: str) -> InputError:
    """The error for a file that cannot be written, below a folder that the environment variable sets."""
    if is_full_disk(error, path):
        return full_disk(path)
    todo = f"Give yourself the right to write there; {variable} moves it elsewhere."
    return InputError(f"cannot write {path}: {error.strerror or error}. {todo}")
