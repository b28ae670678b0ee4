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
