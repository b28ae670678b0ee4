"""Errors for problems the user can fix, and the end that the user asked for."""

from collections.abc import Sequence

from lance_pipeline.display import printable, shortened

# Of one line; what a library or a server says could have any length, and messages are kept in the event log.
_LONGEST_LINE = 4000


class InputError(ValueError):
    """Something outside the code is wrong: a folder, a file, a setting or a missing device.

    The message names the file or field, says what was expected and what to do next. Dagster shows
    it as the failure's description, without a stack trace. As names in it may hold anything, each
    line is shown through :func:`lance_pipeline.display.printable`: a line break inside of one is escaped.

    Args:
        message: for people; a few examples are enough. A list is shown as lines.
        details: all of what the message gives examples of, a line each.
    """

    def __init__(self, message: str | Sequence[str], details: Sequence[str] = ()) -> None:
        # As it was given, as exceptions are pickled by their arguments.
        super().__init__(message)
        self.details = [_shown(line) for line in details]

    def __str__(self) -> str:
        message: str | Sequence[str] = self.args[0]
        lines = [message] if isinstance(message, str) else message
        return "\n".join(_shown(line) for line in lines)


def _shown(line: str) -> str:
    return printable(line if len(line) <= _LONGEST_LINE else shortened(line, _LONGEST_LINE))


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
