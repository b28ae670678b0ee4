"""Errors that explain themselves, and the exception for a requested stop."""

from collections.abc import Sequence

from lance_pipeline.display import printable, shortened

# Characters per line. Texts from libraries and servers can have any length, and the event log stores messages.
_LONGEST_LINE = 4000


class ExplainedError(Exception):
    """An error whose message says what failed, where, and what to do next.

    Dagster shows the message as the failure's description, and the terminal shows it without a stack trace. Names in it
    may contain any character, so each line passes through :func:`lance_pipeline.display.printable`, which escapes line
    breaks.

    Args:
        message: for people; a few examples are enough. A list is shown as lines.
        details: everything that the message gives examples of, one line each.
    """

    def __init__(self, message: str | Sequence[str], details: Sequence[str] = ()) -> None:
        # Unchanged, because exceptions are pickled by their arguments.
        super().__init__(message)
        self.details = [_shown(line) for line in details]

    def __str__(self) -> str:
        message: str | Sequence[str] = self.args[0]
        lines = [message] if isinstance(message, str) else message
        return "\n".join(_shown(line) for line in lines)


class InputError(ExplainedError, ValueError):
    """Something outside the code is wrong: a folder, a file, a setting or a missing device.

    The user has to fix it, so that no step is retried.
    """


class ServiceError(ExplainedError):
    """Something outside is briefly away: an object store, a tracking server, a database or a network.

    Steps that fail with it are retried.
    """


def _shown(line: str) -> str:
    return printable(line if len(line) <= _LONGEST_LINE else shortened(line, _LONGEST_LINE))


class DamagedError(InputError):
    """The content of a file or table differs from what was written."""


class Stopped(Exception):  # noqa: N818 - nothing went wrong
    """A requested stop; the work ended at a point from which it can resume.

    Args:
        reason: what requested it, such as ``SIGTERM``.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"stopped: {reason}")
        self.reason = reason
