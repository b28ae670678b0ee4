"""A limit on the memory of concurrent decoding: large images wait for their turn."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# Share of the machine's memory for all threads together, and its upper bound in bytes, which is about what one image of
# the maximum size takes.
_SHARE, _MOST = 0.25, 4 << 30


class MemoryBudget:
    """A budget of bytes; safe to share between threads.

    Args:
        nbytes: maximum sum of all reservations. A larger reservation is granted when there is no other.
    """

    def __init__(self, nbytes: int) -> None:
        self._nbytes = nbytes
        self._reserved = 0
        self._changed = threading.Condition()

    @contextmanager
    def reserve(self, nbytes: int) -> Iterator[None]:
        """Wait until this many bytes are free, and hold them within the context; not reentrant."""
        with self._changed:
            self._changed.wait_for(lambda: not self._reserved or self._reserved + nbytes <= self._nbytes)
            self._reserved += nbytes
        try:
            yield
        finally:
            with self._changed:
                self._reserved -= nbytes
                self._changed.notify_all()


def default_budget() -> MemoryBudget:
    """A quarter of the machine's memory, at most 4 GiB."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return MemoryBudget(min(int(_SHARE * memory), _MOST))
