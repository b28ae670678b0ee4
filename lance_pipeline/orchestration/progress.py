"""What a person sees while a step runs."""

import time
from datetime import timedelta


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


def clock(seconds: float) -> str:
    """A duration as h:mm:ss."""
    return str(timedelta(seconds=round(seconds)))
