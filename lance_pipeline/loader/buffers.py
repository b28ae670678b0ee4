"""Memory for batches, leased with each array and returned when the last view of it is gone."""

import logging
import math
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray

_log = logging.getLogger(__name__)
Allocate = Callable[[int], NDArray[np.uint8]]
"""Allocates memory of the given number of bytes."""
# More buffers than are usually in use at a time; beyond this, arrays get their own memory.
_MAX_BUFFERS = 64


def ordinary(nbytes: int) -> NDArray[np.uint8]:
    """Pageable memory, as numpy allocates it."""
    return np.empty(nbytes, np.uint8)


class PageLocked:
    """Allocates page-locked memory, which a GPU copies without the CPU; ordinary memory once that runs out."""

    def __init__(self) -> None:
        self._refused = False

    def __call__(self, nbytes: int) -> NDArray[np.uint8]:
        """Allocate memory of the given number of bytes."""
        if not self._refused:
            try:
                return torch.empty(nbytes, dtype=torch.uint8, pin_memory=True).numpy()
            except RuntimeError as error:
                self._refused = True
                _log.warning("no page-locked memory for batches, so copies to the GPU are slower: %s", error)
        return ordinary(nbytes)


class _Lease:
    """Exports the memory of a buffer as an array; all arrays and tensors that use the memory keep the lease alive.

    numpy follows views to the object that owns their memory, and would skip an array on the way; it cannot skip this.
    """

    def __init__(self, buffer: NDArray[np.uint8], shape: tuple[int, ...], kind: np.dtype) -> None:
        self._buffer = buffer
        self.__array_interface__ = {
            "version": 3,
            "data": (buffer.ctypes.data, False),
            "shape": shape,
            "typestr": kind.str,
        }


class Buffers:
    """Gives out arrays from a few buffers of one size.

    Filling new memory takes several times as long as filling used memory, because of page faults. A buffer is leased
    with each array and returned when the last array, view or tensor that uses it is gone, in whatever thread that is;
    so keeping a batch keeps its memory.

    Args:
        nbytes: the size of a buffer; larger arrays get their own memory.
        allocate: allocates a buffer.
    """

    def __init__(self, nbytes: int, allocate: Allocate = ordinary) -> None:
        self._nbytes, self._allocate = nbytes, allocate
        # Returning a buffer takes no lock: the garbage collector may do it at any time, in a thread that holds one.
        self._free: deque[NDArray[np.uint8]] = deque()
        self._allocated, self._lock = 0, threading.Lock()

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """An array with arbitrary values."""
        kind = np.dtype(dtype)
        buffer = self._take() if math.prod(shape) * kind.itemsize <= self._nbytes else None
        if buffer is None:
            return np.empty(shape, kind)
        lease = _Lease(buffer, shape, kind)
        weakref.finalize(lease, self._free.append, buffer).atexit = False
        return np.asarray(lease)

    def _take(self) -> NDArray[np.uint8] | None:
        """A buffer that nothing uses; None if there are too many."""
        try:
            # The latest, which may still be in the processor's cache.
            return self._free.pop()
        except IndexError:
            pass
        with self._lock:
            if self._allocated == _MAX_BUFFERS:
                return None
            self._allocated += 1
        return self._allocate(self._nbytes)


class BatchBuffers(NamedTuple):
    """The memory for decoded batches and for normalised batches."""

    pixels: Buffers
    floats: Buffers

    @classmethod
    def of(cls, values: int, allocate: Allocate) -> Self:
        """Buffers for batches of at most this many values."""
        return cls(Buffers(values, allocate), Buffers(4 * values, allocate))
