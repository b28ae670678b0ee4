"""Progress messages while a step runs."""

import time
from collections.abc import Callable
from datetime import timedelta

import dagster as dg

from lance_pipeline.display import count, percent


class Throttle:
    """Lets a line through once ``seconds`` have passed since the last one."""

    def __init__(self, seconds: float = 10) -> None:
        self._seconds = seconds
        self._last = time.monotonic()

    def ready(self) -> bool:
        """Whether a line is due; if so, the clock restarts."""
        if time.monotonic() - self._last < self._seconds:
            return False
        self._last = time.monotonic()
        return True


def progress_reporter(
    context: dg.AssetExecutionContext, key: dg.AssetKey, what: str, unit: str, seconds: float = 10
) -> Callable[[int, int | None], None]:
    """A callback of (done, total) that regularly reports the rate and, unless the total is None, the time left.

    It writes to the log, and to the page of the asset ``key`` as observations, which show up while the step runs.
    Work done before the first call does not count towards the rate.
    """
    throttle = Throttle(seconds)
    began: tuple[int, float] | None = None

    def report(done: int, total: int | None) -> None:
        nonlocal began
        now = time.monotonic()
        if began is None or done < began[0]:
            began = done, now
            return
        if not throttle.ready():
            return
        rate = (done - began[0]) / (now - began[1]) if now > began[1] else 0.0
        # Dagster draws series of numbers, so the count and the rate are logged as numbers.
        metadata: dict[str, str | int | float] = {f"{unit}_done": done, f"{unit}_per_second": round(rate, 1)}
        if total is None:
            context.log.info(f"{what}: {done} {unit}, {rate:.1f} {unit}/s")
            metadata["progress"] = f"{what}: {count(done)} {unit}"
        else:
            left = clock((total - done) / rate) if rate else "unknown"
            context.log.info(f"{what}: {done} of {total} {unit}, {rate:.1f} {unit}/s, {left} left")
            share = percent(done / total) if total else "all"
            metadata["progress"] = f"{what}: {count(done)} of {count(total)} {unit} ({share})"
            metadata["time_left"] = left
        context.log_event(dg.AssetObservation(key, metadata=metadata))

    return report


def clock(seconds: float) -> str:
    """A duration as h:mm:ss."""
    return str(timedelta(seconds=round(seconds)))
