"""Estimating the remaining time of a training."""

import time
from collections.abc import Callable

# The first batches compile, allocate and fill caches.
_WARM_UP = 3
# Batches after the warm-up until the pace is known.
_LEAST = 5


class Pace:
    """The pace of a training, measured after its first batches.

    Args:
        done: the share of the training already done, from 0 to 1.
        clock: returns seconds.
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
        """The best estimate of the seconds left, such as after an epoch; None if nothing was done since the start.

        Args:
            done: the share of the training that is done now.
        """
        began, before = self._warm if done > self._warm[1] else self._begun
        return (self._clock() - began) * (1 - done) / (done - before) if done > before else None
