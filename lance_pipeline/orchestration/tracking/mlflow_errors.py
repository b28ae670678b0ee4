"""What the errors of MLflow's client mean."""

import sqlite3
import traceback

from lance_pipeline.storage.outages import is_outage
from lance_pipeline.storage.redacted_errors import chain

_CODES = ("TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED")
_PACKAGES = ("mlflow", __name__.partition(".")[0])


def raised_by_mlflow(error: BaseException) -> bool:
    """Whether an error comes from a call into MLflow, whichever library below it has raised it."""
    modules = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    packages = [name for module in modules if (name := module.partition(".")[0]) in _PACKAGES]
    return packages[-1:] == ["mlflow"]


def is_away(error: BaseException) -> bool:
    """Whether an error of the client means that the server or its database is away and may answer later."""
    from mlflow.exceptions import MlflowException, RestException

    # MLflow has one code for all of SQLite's errors, such as a read-only file.
    if is_outage(error) or any(isinstance(one, sqlite3.Error) for one in chain(error)):
        return is_outage(error)
    # A server's own failure; the client's other errors have this code by default.
    codes = (*_CODES, "INTERNAL_ERROR") if isinstance(error, RestException) else _CODES
    return isinstance(error, MlflowException) and error.error_code in codes
