"""Settings for the pipeline's own processes: commands, code servers, runs and their steps."""

import logging
import os
import sys
import threading
import warnings
from contextlib import suppress
from typing import Any

from lance_pipeline.orchestration.paths import dagster_home, data_root, narrow_data, private_umask
from lance_pipeline.orchestration.runtime.databases import as_explained_error
from lance_pipeline.orchestration.runtime.terminal import without_trace
from lance_pipeline.process_settings import speed_up_process
from lance_pipeline.storage.private import restrict_tree
from lance_pipeline.storage.redacted_errors import redacted
from lance_pipeline.storage.redaction import redact

# Dagster's errors whose message suffices: for what was typed, and for a stop. By name, because importing them takes
# time in commands that need no Dagster.
_PLAIN = {
    "DagsterInvalidSubsetError",
    "DagsterInvalidAssetSelectionError",
    "DagsterInvalidConfigError",
    "DagsterExecutionInterruptedError",
}
# MLflow reads these when it is imported or used, which is later. It retries for minutes by default.
_MLFLOW = {
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}


def keep_to_the_user() -> None:
    """Make this process write only private files, and log lines without secrets, from now on.

    It also hides the warnings of libraries, in this process and its children, and sets what makes steps faster. Call it
    at the start of a process; where the package is used as a library or in a notebook, all of this is left alone.
    Idempotent.
    """
    speed_up_process()
    _silence_libraries()
    os.umask(private_umask())
    narrow_data(data_root())
    _narrow_instance()
    if logging.getLogRecordFactory() is not _record:
        logging.setLogRecordFactory(_record)
        sys.excepthook = _show_error
        threading.excepthook = _show_error_of_thread


def _silence_libraries() -> None:
    """Hide what only library authors can act on: beta features, superseded commands, odd colour tables, progress bars.

    Messages for users go through the log. `-W default` or PYTHONWARNINGS shows Python's warnings.
    """
    if not sys.warnoptions and "PYTHONWARNINGS" not in os.environ:
        warnings.simplefilter("ignore")
        os.environ["PYTHONWARNINGS"] = "ignore"
    for name, value in _MLFLOW.items():
        os.environ.setdefault(name, value)


def _narrow_instance() -> None:
    """Restrict files that Dagster created in an instance below the data root before it loaded this package."""
    home = dagster_home()
    if not home.is_absolute() or not home.is_relative_to(data_root()) or private_umask() != 0o077:
        return
    # Dagster always creates a run's database before the run's process loads this package.
    for folder in (home, home / "history", home / "history" / "runs", home / "schedules"):
        if os.path.isdir(folder):
            restrict_tree(folder, always_descend=True)


class _Record(logging.LogRecord):
    """A log record without secrets for any handler or formatter, and without a stack trace if nothing went wrong.

    Dagster stores an event before it creates the record for its console, so the event log is unaffected.
    """

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        # If the arguments do not fit the message, logging itself reports that when it formats the record.
        with suppress(TypeError, ValueError, KeyError):
            message = self.getMessage()
            if (safe := redact(without_trace(message))) != message:
                self.msg, self.args = safe, ()
        if self.exc_info and self.exc_info[1] is not None:
            error = redacted(self.exc_info[1])
            self.exc_info = type(error), error, error.__traceback__


def _record(*arguments: Any, **more: Any) -> logging.LogRecord:
    return _Record(*arguments, **more)


def _show_error(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    plain = error if _PLAIN & {one.__name__ for one in kind.__mro__} else None
    if explanation := plain or as_explained_error(error):
        print(f"lance-pipeline: {redact(explanation)}", file=sys.stderr)
        return
    safe = redacted(error)
    sys.__excepthook__(kind if safe is error else type(safe), safe, trace)


def _show_error_of_thread(arguments: threading.ExceptHookArgs) -> None:
    if arguments.exc_value is not None and arguments.exc_type is not SystemExit:
        print(f"Exception in thread {arguments.thread and arguments.thread.name}:", file=sys.stderr)
        _show_error(arguments.exc_type, arguments.exc_value, arguments.exc_traceback)
