"""Memory for batches, used again as soon as nobody holds it."""

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
"""Makes memory of so many bytes."""
# The list, the loop's variable and the argument of the call that asks.
_UNUSED = 3
# Of more batches than are mostly on their way memory is made afresh.
_MOST = 64


def ordinary(nbytes: int) -> NDArray[np.uint8]:
    """Memory as numpy allocates it."""
    return np.empty(nbytes, np.uint8)


class PageLocked:
    """Allocates memory that a CUDA card reads by itself; ordinary memory once there is no more of it."""

    def __init__(self) -> None:
        self._refused = False

    def __call__(self, nbytes: int) -> NDArray[np.uint8]:
        """Memory of so many bytes."""
        if not self._refused:
            try:
                return torch.empty(nbytes, dtype=torch.uint8, pin_memory=True).numpy()
            except RuntimeError as error:
                self._refused = True
                _log.warning("no page-locked memory for batches, which slows down their way to the GPU: %s", error)
        return ordinary(nbytes)


class Buffers:
    """Hands out arrays from a few buffers of one size.

    Fresh memory is paid for by the page: filling it costs several times as much as filling memory that was used before.
    A buffer is free when its reference count says that no array and no tensor over it is left, so that whoever keeps a
    batch keeps its memory.

    Args:
        nbytes: of a buffer; larger arrays are made afresh.
        allocate: makes a buffer.
    """

    def __init__(self, nbytes: int, allocate: Allocate = ordinary) -> None:
        self._nbytes, self._allocate = nbytes, allocate
        self._buffers: list[NDArray[np.uint8]] = []
        self._lock = threading.Lock()

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """An array with whatever values are there."""
        kind = np.dtype(dtype)
        needed = math.prod(shape) * kind.itemsize
        if needed > self._nbytes:
            return np.empty(shape, kind)
        with self._lock:
            for buffer in self._buffers:
                if sys.getrefcount(buffer) == _UNUSED:
                    return buffer[:needed].view(kind).reshape(shape)
            if len(self._buffers) == _MOST:
                return np.empty(shape, kind)
            buffer = self._allocate(self._nbytes)
            self._buffers.append(buffer)
            return buffer[:needed].view(kind).reshape(shape)


class BatchBuffers(NamedTuple):
    """The memory for batches as they are decoded, and as they are normalised."""

    pixels: Buffers
    floats: Buffers

    @classmethod
    def of(cls, values: int, allocate: Allocate) -> Self:
        """For batches of at most so many values."""
        return cls(Buffers(values, allocate), Buffers(4 * values, allocate))
