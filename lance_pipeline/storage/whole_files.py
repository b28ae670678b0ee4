"""Local files that are written whole or not at all."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

TEMPORARY = ".tmp"
"""How the name of a file ends that is not yet whole."""


@contextmanager
def whole_file(
    path: str | os.PathLike[str], check: Callable[[str], None] = lambda work: None, *, shared: bool = False
) -> Iterator[str]:
    """Yield where to write the file that takes its place at ``path`` once the context ends without an error.

    It is safely on the disk before it replaces what was there. Its folder is made.

    Args:
        path: of the file.
        check: called with the path of what was written before it takes its place; an error leaves what was there.
        shared: whether several processes may write the file at once. Each then has a work file of its own, which
            stays behind if it is killed.

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
    """Write a file, whole or not at all; ``shared`` as in :func:`whole_file`.

    Raises:
        OSError: it cannot be written.
    """
    with whole_file(path, shared=shared) as work, open(work, "wb") as file:
        file.write(data)


def _sync(path: str) -> None:
    """Return once a file, or the names in a folder, would survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
