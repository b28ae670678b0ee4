"""What becomes of memory that is freed: glibc keeps some of it, by rules that suit neither an ingest nor a training."""

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -3, -4, -8
# Where glibc's own adjustment ends on 64 bits, which the first of these calls turns off for good; and its default.
_LARGEST_THRESHOLD, _DEFAULT_MAX = 32 << 20, 65536


def give_back_freed_memory() -> None:
    """Give the memory that Arrow and, with glibc, all others have freed back to the system.

    Otherwise each stretch of a long work leaves some behind, as the threads that free it do not know of each other.
    """
    pa.default_memory_pool().release_unused()
    if libc := _glibc():
        libc.malloc_trim(0)


def share_freed_memory() -> None:
    """From now on have threads use what others have freed: as many arenas as cores, where glibc has eight times that.

    Each arena keeps what is freed in it, and memory that one thread allocates and another frees fills them all in turn.
    The setting is the process's, and stays; threads that have an arena keep it.
    """
    if libc := _glibc():
        libc.mallopt(_M_ARENA_MAX, os.cpu_count() or 1)


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Within, memory that is freed is not given back to the system, which would clear each page anew.

    On the CPU a network allocates and frees the same large tensors at every step; glibc hands each of them to the
    system and takes it back, at some 5 % of the time of a training. Outside of glibc this changes nothing. The setting
    is the process's; what was kept is given back at the end.
    """
    libc = _glibc()
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
