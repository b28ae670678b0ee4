"""The one error that is the user's to mend."""


class InputError(ValueError):
    """Something outside the code is wrong: a folder, a file, a setting or a missing device.

    The message names the file or field, says what was expected and what to do next. Dagster shows
    it as the failure's description, without a stack trace.
    """
