"""Dagster's and MLflow's SQLite databases, and what the loss of each one means."""

import sqlite3
import tempfile
from pathlib import Path

from lance_pipeline.errors import DamagedError, ExplainedError, ServiceError
from lance_pipeline.orchestration.paths import dagster_home, data_root
from lance_pipeline.storage.databases import damage_of, set_database_aside
from lance_pipeline.storage.full_disk import free_bytes, full_disk, is_full_disk
from lance_pipeline.storage.outages import is_outage
from lance_pipeline.storage.redacted_errors import chain

REPLACE_COMMAND = "python -m lance_pipeline databases --replace"


def databases() -> dict[Path, str]:
    """The paths of all databases that may exist, each with what is lost without it."""
    home = dagster_home()
    return {
        home / "history" / "runs.db": "the list of runs",
        home / "history" / "runs" / "index.db": "what was materialized, so that models are trained again; the "
        "datasets, models and MLflow stay",
        home / "schedules" / "schedules.db": "which schedules are on",
        data_root() / "mlflow" / "mlflow.db": "MLflow's runs, metrics and registry; the files in "
        f"{data_root() / 'mlflow' / 'artifacts'} stay, and so do the models",
    }


def as_explained_error(error: BaseException) -> ExplainedError | None:
    """The full disk, damaged database or outage that caused an error of a library; None for other causes.

    An `ExplainedError` in the chain of causes is returned as it is.
    """
    for cause in chain(error):
        if isinstance(cause, ExplainedError):
            return cause
    # The error seldom names a path; assume the fullest of the disks that are written to.
    folder = min((dagster_home(), data_root(), Path(tempfile.gettempdir())), key=free_bytes)
    if is_full_disk(error, folder):
        return full_disk(folder)
    if any(isinstance(one, sqlite3.DatabaseError) for one in chain(error)):
        try:
            require_sound_databases()
        except ExplainedError as found:
            return found
    if is_outage(error) or _is_database_outage(error):
        return ServiceError(f"a store, server or database is away: {error}. See that it is up.")
    return None


def _is_database_outage(error: BaseException) -> bool:
    """Whether a database server does not answer; SQLite has no server."""
    from sqlalchemy import exc

    return any(
        isinstance(one, exc.OperationalError | exc.InterfaceError | exc.TimeoutError)
        and not isinstance(getattr(one, "orig", None), sqlite3.Error)
        for one in chain(error)
    )


def require_sound_databases(*which: Path) -> None:
    """Check that SQLite can read the databases.

    Args:
        which: the databases to check; all if none is given.

    Raises:
        DamagedError: one is damaged.
        FullDiskError: there is no space to open one.
    """
    for path, lost in databases().items():
        if (path in which or not which) and (reason := damage_of(path)):
            raise DamagedError(
                f"the database {path} is damaged: {reason}. Restore it from a backup; or stop what uses it (make ui, "
                f"runs) and run `{REPLACE_COMMAND}`, which moves it aside for an empty one. Lost then is {lost}."
            )


def check_databases(*, replace: bool) -> bool:
    """Print the state of each database; returns whether all are sound in the end.

    Args:
        replace: whether to move damaged ones aside, so that Dagster and MLflow create empty ones.

    Raises:
        FullDiskError: there is no space to open one.
        InputError: one cannot be moved.
    """
    sound = True
    for path, lost in databases().items():
        reason = damage_of(path)
        state = "not there" if not path.exists() else f"damaged: {reason}" if reason else "sound"
        print(f"{path}: {state}")
        if reason and replace:
            print(f"  moved to {set_database_aside(path)}; an empty one takes its place. Lost is {lost}.")
        elif reason:
            sound = False
            print(f"  {REPLACE_COMMAND} moves it aside for an empty one. Lost then is {lost}.")
    return sound
