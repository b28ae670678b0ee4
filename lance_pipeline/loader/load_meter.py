"""Measures where the time of loading goes."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class LoaderStats:
    """The work of a loader since the last call; times in seconds.

    Attributes:
        images: images yielded.
        skipped: rows left out because they could not be decoded.
        elapsed: from the request of the first batch to the request after the last one.
        waiting: the part of ``elapsed`` in which the consumer waited for batches.
        reading: waiting for storage, summed over threads.
        decoding: decoding, cropping and resizing, summed over threads.
    """

    images: int = 0
    skipped: int = 0
    elapsed: float = 0.0
    waiting: float = 0.0
    reading: float = 0.0
    decoding: float = 0.0

    @property
    def images_per_second(self) -> float:
        """Images per second of elapsed time; 0 before the first image."""
        return self.images / self.elapsed if self.elapsed else 0.0

    @property
    def waiting_share(self) -> float:
        """The share of the elapsed time in which the consumer waited."""
        return self.waiting / self.elapsed if self.elapsed else 0.0


class LoadMeter:
    """Sums seconds and images; safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._totals: dict[str, float] = {}
        self._began: float | None = None
        self._last = 0.0

    @contextmanager
    def timed(self, stage: Literal["waiting", "reading", "decoding"]) -> Iterator[None]:
        """Add the time within the context to a stage."""
        began = time.perf_counter()
        try:
            yield
        finally:
            ended = time.perf_counter()
            with self._lock:
                self._totals[stage] = self._totals.get(stage, 0.0) + ended - began
                if stage == "waiting":
                    self._began, self._last = began if self._began is None else self._began, ended

    def batch_used(self) -> None:
        """Note that the consumer has used a batch and requests the next."""
        with self._lock:
            self._last = time.perf_counter()

    def count(self, what: Literal["images", "skipped"], number: int) -> None:
        """Count images."""
        with self._lock:
            self._totals[what] = self._totals.get(what, 0) + number

    def take(self) -> LoaderStats:
        """Return what was counted, and reset."""
        with self._lock:
            totals, self._totals = self._totals, {}
            elapsed = 0.0 if self._began is None else self._last - self._began
            self._began = None
        images, skipped = (int(totals.get(name, 0)) for name in ("images", "skipped"))
        waiting, reading, decoding = (totals.get(name, 0.0) for name in ("waiting", "reading", "decoding"))
        return LoaderStats(images, skipped, elapsed, waiting, reading, decoding)
