"""What a person sees while a step runs."""

import time
from collections.abc import Callable
from datetime import timedelta

import dagster as dg


class Throttle:
    """Lets a line through when ``seconds`` have gone since the last one."""

    def __init__(self, seconds: float = 10) -> None:
        self._seconds = seconds
        self._last = time.monotonic()

    def ready(self) -> bool:
        """Whether it is time for a line; if so, the clock starts anew."""
        if time.monotonic() - self._last < self._seconds:
            return False
        self._last = time.monotonic()
        return True


def progress_reporter(
    context: dg.AssetExecutionContext, key: dg.AssetKey, what: str, unit: str, seconds: float = 10
) -> Callable[[int, int], None]:
    """A callback of (done, total) that now and then writes rate and time left.

    They go to the log, and as an observation to the page of the asset ``key``, where they show
    while the step runs.
    """
    throttle, began = Throttle(seconds), time.monotonic()

    def report(done: int, total: int) -> None:
        if not throttle.ready():
            return
        rate = done / (time.monotonic() - began)
        left = clock((total - done) / rate) if rate else "unknown"
        context.log.info(f"{what}: {done} of {total} {unit}, {rate:.0f} {unit}/s, {left} left")
        metadata = {"what": what, "done": done, "total": total, f"{unit}_per_second": round(rate, 1), "time_left": left}
        context.log_event(dg.AssetObservation(key, metadata=metadata))

    return report


def clock(seconds: float) -> str:
    """A duration as h:mm:ss."""
    return str(timedelta(seconds=round(seconds)))
