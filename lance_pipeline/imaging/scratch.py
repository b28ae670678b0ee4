"""Reusable buffers per thread: allocating new memory costs as much as the work on it."""

import math
import threading

import numpy as np
from numpy.typing import NDArray

# Maximum size of a thread's buffer: enough for a photograph.
_KEPT_BYTES = 64 << 20


class Scratch(threading.local):
    """Returns arrays in the thread's buffer; each one overwrites the previous one."""

    def __init__(self) -> None:
        self._buffer = np.empty(0, np.uint8)

    def array(self, *shape: int) -> NDArray[np.uint8]:
        """An uninitialised uint8 array."""
        size = math.prod(shape)
        if size > _KEPT_BYTES:
            return np.empty(shape, np.uint8)
        if self._buffer.size < size:
            self._buffer = np.empty(size, np.uint8)
        return self._buffer[:size].reshape(shape)
