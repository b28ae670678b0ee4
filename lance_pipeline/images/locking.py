"""Locks that die with their process, and with them one writer at a time for each dataset on a host."""

import errno
import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from filelock import FileLock, Timeout

from lance_pipeline.errors import InputError, Stopped
from lance_pipeline.images.object_store import is_remote

# Seconds.
_LOOK_EVERY = 0.2


def lock_path(uri: str) -> str:
    """The lock file: hidden beside a local dataset, in the host's temporary folder for a remote one."""
    if is_remote(uri):
        return os.path.join(
            tempfile.gettempdir(), f"lance_pipeline-{hashlib.sha256(uri.encode()).hexdigest()[:32]}.lock"
        )
    folder, name = os.path.split(os.path.abspath(uri))
    return os.path.join(folder, f".{name}.lock")


@contextmanager
def locked(uris: list[str], on_wait: Callable[[str], None] = lambda uri: None) -> Iterator[None]:
    """Hold the locks of these datasets; they are free again when this process ends, however it ends.

    Writers on other hosts are not kept out: their commits conflict, and one of them starts over.

    Args:
        uris: the datasets.
        on_wait: called once with each dataset that somebody else is writing to.

    Raises:
        InputError: the folder cannot be written.
    """
    with ExitStack() as stack:
        # In one order for everybody, or two could wait for each other.
        for uri in sorted(uris):
            variable = "TMPDIR" if is_remote(uri) else "LANCE_PIPELINE_DATA"
            stack.enter_context(first_free([lock_path(uri)], variable, lambda uri=uri: uri, on_wait))
        yield


@contextmanager
def first_free(
    paths: Sequence[str],
    variable: str,
    waits_for: Callable[[], str],
    on_wait: Callable[[str], None],
    stop: Callable[[], str | None] = lambda: None,
) -> Iterator[str]:
    """Hold the first of these lock files that is free, and yield its path; sleep while others hold them all.

    Threads of one process keep each other out as well. A file is free again when the context or the process
    ends, however it ends.

    Args:
        paths: the lock files, the preferred one first; made, with their folders, where they are missing, and
            never removed.
        variable: the environment variable that moves them elsewhere, for the message.
        waits_for: asked, while others hold them, what is waited for.
        on_wait: called with its answer, and again when that has changed.
        stop: asked while it waits; a reason, such as ``SIGTERM``, ends the waiting.

    Raises:
        Stopped: ``stop`` gave a reason.
        InputError: a file cannot be written.
    """
    told = None
    while (lock := next(filter(None, (_held(path, variable) for path in paths)), None)) is None:
        if (text := waits_for()) != told:
            on_wait(text)
            told = text
        if reason := stop():
            raise Stopped(reason)
        time.sleep(_LOOK_EVERY)
    try:
        yield lock.lock_file
    finally:
        lock.release()


def unwritable(path: str, error: OSError, variable: str) -> InputError:
    """What to tell of a file that cannot be written, below a folder that the environment variable sets."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    todo = "Free some space" if full else "Give yourself the right to write"
    return InputError(f"cannot write {path}: {error.strerror or error}. {todo} there; {variable} moves it elsewhere.")


def _held(path: str, variable: str) -> FileLock | None:
    """The operating system's lock of this file, held from now on, or None while somebody else holds it."""
    lock = FileLock(path, thread_local=False)
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        return None
    except OSError as error:
        raise unwritable(path, error, variable) from error
    return lock
