"""Locks that die with their process, and with them one writer at a time for each dataset on a host."""

import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from filelock import FileLock, Timeout

from lance_pipeline.errors import InputError
from lance_pipeline.images.object_store import is_remote

_TRY = 0.2


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
            stack.callback(_lock(uri, on_wait).release)
        yield


def try_lock(path: str, variable: str) -> FileLock | None:
    """The operating system's lock of this file, held from now on, or None while somebody else holds it.

    Threads of one process keep each other out as well. It is free again after ``release()``, or when
    this process ends, however it ends.

    Args:
        path: the lock file; made, with its folder, where it is missing, and never removed.
        variable: the environment variable that moves it elsewhere, for the message.

    Raises:
        InputError: the file cannot be written.
    """
    lock = FileLock(path, thread_local=False)
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        return None
    except OSError as error:
        raise unwritable(path, error, variable) from error
    return lock


def unwritable(path: str, error: OSError, variable: str) -> InputError:
    """What to tell of a file that cannot be written, below a folder that the environment variable sets."""
    return InputError(
        f"cannot write {path}: {error.strerror or error}. Give yourself the right to write there; "
        f"{variable} moves it elsewhere."
    )


def _lock(uri: str, on_wait: Callable[[str], None]) -> FileLock:
    path, variable = lock_path(uri), "TMPDIR" if is_remote(uri) else "LANCE_PIPELINE_DATA"
    lock = try_lock(path, variable)
    if lock is None:
        on_wait(uri)
    while lock is None:
        time.sleep(_TRY)
        lock = try_lock(path, variable)
    return lock
