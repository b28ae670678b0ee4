"""The one error that is the user's to mend."""

from collections.abc import Sequence


class InputError(ValueError):
    """Something outside the code is wrong: a folder, a file, a setting or a missing device.

    The message names the file or field, says what was expected and what to do next. Dagster shows
    it as the failure's description, without a stack trace.

    Args:
        message: for people; a few examples are enough.
        details: all of what the message gives examples of, a line each.
    """

    def __init__(self, message: str, details: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.details = list(details)


class DamagedError(InputError):
    """A file or table does not hold what was written to it."""


class Stopped(Exception):  # noqa: N818 - nothing went wrong
    """Somebody asked for the end of what was running, and it has ended where it can go on.

    Args:
        reason: who or what, such as ``SIGTERM``.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"stopped: {reason}")
        self.reason = reason
