"""How long a training still takes."""

import time
from collections.abc import Callable

# The first batches compile, allocate and fill caches.
_WARM_UP = 3
# So many batches after those tell the pace.
_LEAST = 5


class Pace:
    """The pace of a training since its first batches.

    Args:
        done: the share of the training that was done before, from 0 to 1.
        clock: gives seconds.
    """

    def __init__(self, done: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._batches = 0
        self._begun = self._warm = (clock(), done)

    def after_batch(self, done: float) -> float | None:
        """Count a batch; returns the seconds left, None until the pace is known."""
        self._batches += 1
        if self._batches == _WARM_UP:
            self._warm = (self._clock(), done)
        return self.seconds_left(done) if self._batches >= _WARM_UP + _LEAST else None

    def seconds_left(self, done: float) -> float | None:
        """The seconds left by all that is known, as after an epoch; None where nothing was done since the beginning.

        Args:
            done: the share of the training that is done now.
        """
        began, before = self._warm if done > self._warm[1] else self._begun
        return (self._clock() - began) * (1 - done) / (done - before) if done > before else None
