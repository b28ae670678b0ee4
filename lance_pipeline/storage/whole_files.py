"""Atomic writes of local files."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

TEMPORARY = ".tmp"
"""Suffix of the names of unfinished files."""


@contextmanager
def whole_file(
    path: str | os.PathLike[str], check: Callable[[str], None] = lambda work: None, *, shared: bool = False
) -> Iterator[str]:
    """Yield the path of a temporary file that replaces ``path`` when the context ends without an error.

    The file is synced to disk before it replaces an existing one. Its folder is created.

    Args:
        path: of the file.
        check: called with the temporary path before the replacement; if it raises, the existing file stays.
        shared: whether several processes may write the file at once. Each then has its own temporary file, which
            remains if the process is killed.

    Raises:
        OSError: it cannot be written.
    """
    folder, name = os.path.split(os.path.abspath(path))
    work = os.path.join(folder, f".{name}{f'.{os.getpid()}' if shared else ''}{TEMPORARY}")
    os.makedirs(folder, exist_ok=True)
    try:
        yield work
        _sync(work)
        check(work)
        os.replace(work, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(work)
        raise
    _sync(folder)


def write_whole(path: str | os.PathLike[str], data: bytes | memoryview, *, shared: bool = False) -> None:
    """Write a file atomically; ``shared`` as in :func:`whole_file`.

    Raises:
        OSError: it cannot be written.
    """
    with whole_file(path, shared=shared) as work, open(work, "wb") as file:
        file.write(data)


def _sync(path: str) -> None:
    """Sync a file, or the entries of a folder, so that they survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
