"""Memory for batches, reused as soon as nothing refers to it."""

import logging
import math
import sys
import threading
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray

_log = logging.getLogger(__name__)
Allocate = Callable[[int], NDArray[np.uint8]]
"""Allocates memory of the given number of bytes."""
# The reference count of a free buffer: the list, the loop variable and the argument of getrefcount.
_FREE_REFERENCES = 3
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


class Buffers:
    """Gives out arrays from a few buffers of one size.

    Filling new memory takes several times as long as filling used memory, because of page faults. A buffer is free when
    its reference count shows that no array or tensor uses it, so keeping a batch keeps its memory.

    Args:
        nbytes: the size of a buffer; larger arrays get their own memory.
        allocate: allocates a buffer.
    """

    def __init__(self, nbytes: int, allocate: Allocate = ordinary) -> None:
        self._nbytes, self._allocate = nbytes, allocate
        self._buffers: list[NDArray[np.uint8]] = []
        self._lock = threading.Lock()

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """An array with arbitrary values."""
        kind = np.dtype(dtype)
        needed = math.prod(shape) * kind.itemsize
        if needed > self._nbytes:
            return np.empty(shape, kind)
        with self._lock:
            for buffer in self._buffers:
                if sys.getrefcount(buffer) == _FREE_REFERENCES:
                    return buffer[:needed].view(kind).reshape(shape)
            if len(self._buffers) == _MAX_BUFFERS:
                return np.empty(shape, kind)
            buffer = self._allocate(self._nbytes)
            self._buffers.append(buffer)
            return buffer[:needed].view(kind).reshape(shape)


class BatchBuffers(NamedTuple):
    """The memory for decoded batches and for normalised batches."""

    pixels: Buffers
    floats: Buffers

    @classmethod
    def of(cls, values: int, allocate: Allocate) -> Self:
        """Buffers for batches of at most this many values."""
        return cls(Buffers(values, allocate), Buffers(4 * values, allocate))
