"""Memory that each thread uses again and again: fresh memory costs as much as the work on it."""

import math
import threading

import numpy as np
from numpy.typing import NDArray

# What a thread keeps: enough for a photograph.
_KEPT_BYTES = 64 << 20


class Scratch(threading.local):
    """Hands out the thread's memory; what it gave before is then overwritten."""

    def __init__(self) -> None:
        self._buffer = np.empty(0, np.uint8)

    def array(self, *shape: int) -> NDArray[np.uint8]:
        """A uint8 array with whatever values are there."""
        size = math.prod(shape)
        if size > _KEPT_BYTES:
            return np.empty(shape, np.uint8)
        if self._buffer.size < size:
            self._buffer = np.empty(size, np.uint8)
        return self._buffer[:size].reshape(shape)
