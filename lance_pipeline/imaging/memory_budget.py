"""How much memory decoding may take at once: large images wait for their turn."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# A share of the machine's memory, for all threads together; one image of the largest size takes about as much as the
# upper bound.
_SHARE, _MOST = 0.25, 4 << 30


class MemoryBudget:
    """Counts bytes; safe to share between threads.

    Args:
        nbytes: what all reservations may add up to. A larger one is granted when there is no other.
    """

    def __init__(self, nbytes: int) -> None:
        self._nbytes = nbytes
        self._reserved = 0
        self._changed = threading.Condition()

    @contextmanager
    def reserved(self, nbytes: int) -> Iterator[None]:
        """Wait until there is room for so many bytes, and keep it; a thread reserves once at a time."""
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
    """A quarter of the memory of this machine, and 4 GiB at most."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return MemoryBudget(min(int(_SHARE * memory), _MOST))
