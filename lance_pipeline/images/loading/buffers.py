"""Memory for batches, used again as soon as nobody holds it."""

import math
import sys
import threading
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

# The list, the loop's variable and the argument of the call that asks.
_UNUSED = 3
# Of more batches than are mostly on their way memory is made afresh.
_MOST = 64


class Buffers:
    """Hands out arrays from a few buffers of one size.

    Fresh memory is paid for by the page: filling it costs several times as much as filling memory that was used before.
    A buffer is free when its reference count says that no array and no tensor over it is left, so that whoever keeps a
    batch keeps its memory.

    Args:
        nbytes: of a buffer; larger arrays are made afresh.
    """

    def __init__(self, nbytes: int) -> None:
        self._nbytes = nbytes
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
            buffer = np.empty(self._nbytes, np.uint8)
            if len(self._buffers) < _MOST:
                self._buffers.append(buffer)
            return buffer[:needed].view(kind).reshape(shape)


class BatchBuffers(NamedTuple):
    """The memory for batches as they are decoded, and as they are normalised."""

    pixels: Buffers
    floats: Buffers

    @classmethod
    def of(cls, values: int) -> Self:
        """For batches of at most so many values."""
        return cls(Buffers(values), Buffers(4 * values))
