"""Memory for batches, used again as soon as nobody holds it."""

import math
import sys
import threading
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

# The list, the loop's variable and the argument of the call that asks.
_UNUSED = 3


class Buffers(threading.local):
    """Hands out arrays from a few buffers of one size, those of each thread its own.

    Fresh memory is paid for by the page: filling it costs several times as much as filling memory that was used before,
    and memory that another core has used has to come over from there. A buffer is free when its reference count says
    that no array and no tensor over it is left, so that whoever keeps a batch keeps its memory.

    Args:
        nbytes: of a buffer; larger arrays are made afresh.
        most: how many buffers a thread keeps; more arrays than that at once are made afresh.
    """

    def __init__(self, nbytes: int, most: int) -> None:
        self._nbytes, self._most = nbytes, most
        self._buffers: list[NDArray[np.uint8]] = []

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """An array with whatever values are there."""
        kind = np.dtype(dtype)
        needed = math.prod(shape) * kind.itemsize
        if needed > self._nbytes:
            return np.empty(shape, kind)
        for buffer in self._buffers:
            if sys.getrefcount(buffer) == _UNUSED:
                return buffer[:needed].view(kind).reshape(shape)
        buffer = np.empty(self._nbytes, np.uint8)
        if len(self._buffers) < self._most:
            self._buffers.append(buffer)
        return buffer[:needed].view(kind).reshape(shape)
