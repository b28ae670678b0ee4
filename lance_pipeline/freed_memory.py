"""Control over freed memory: glibc's default rules for keeping it suit neither ingestion nor training.

The settings apply to the whole process. They have no effect unless the process has called `manage_freed_memory`.
"""

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -3, -4, -8
# The first of these calls turns off glibc's dynamic threshold for good: its upper bound on 64 bits replaces it
# afterwards. The second value is the default of M_MMAP_MAX.
_LARGEST_THRESHOLD, _DEFAULT_MAX = 32 << 20, 65536
_managed = False


def manage_freed_memory() -> None:
    """Let this process and those forked from it manage freed memory; for its start, before it has threads.

    Threads reuse each other's freed memory from now on: one arena per core instead of glibc's eight. Each arena keeps
    what is freed in it, and memory that one thread allocates and another frees fills them all in turn. Threads that
    already have an arena keep it, and so does a process whose user has set ``MALLOC_ARENA_MAX``.
    """
    global _managed  # noqa: PLW0603 - a setting of the process
    _managed = True
    if (libc := _glibc()) and "MALLOC_ARENA_MAX" not in os.environ:
        libc.mallopt(_M_ARENA_MAX, os.cpu_count() or 1)


def give_back_freed_memory() -> None:
    """Return freed memory to the system: Arrow's and, with glibc, that of all other allocations.

    Without it each stage of a long job leaves some behind, because every thread keeps its own freed memory.
    """
    if not _managed:
        return
    import pyarrow as pa

    pa.default_memory_pool().release_unused()
    if libc := _glibc():
        libc.malloc_trim(0)


@contextmanager
def keep_freed_memory() -> Iterator[None]:
    """Within the context, keep freed memory instead of returning it to the system, which would clear each page again.

    On the CPU a network allocates and frees the same large tensors at every step; glibc returns each of them to the
    system and requests it again, which costs about 5 % of the training time. Without glibc this has no effect. The
    memory is returned at the end.
    """
    libc = _glibc() if _managed else None
    if libc is None:
        yield
        return
    libc.mallopt(_M_TRIM_THRESHOLD, -1)
    libc.mallopt(_M_MMAP_MAX, 0)
    try:
        yield
    finally:
        libc.mallopt(_M_MMAP_MAX, _DEFAULT_MAX)
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_THRESHOLD)
        libc.mallopt(_M_TRIM_THRESHOLD, 2 * _LARGEST_THRESHOLD)
        give_back_freed_memory()


def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
