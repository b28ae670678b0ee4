"""One writer at a time for each dataset on a host."""

import hashlib
import os
import tempfile
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
            stack.enter_context(_lock(uri, on_wait))
        yield


def _lock(uri: str, on_wait: Callable[[str], None]) -> FileLock:
    path = lock_path(uri)
    lock = FileLock(path, thread_local=False)
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            on_wait(uri)
            lock.acquire(poll_interval=_TRY)
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror or error}. Give yourself the right to write there; "
            "LANCE_PIPELINE_DATA moves all data elsewhere."
        ) from error
    return lock
