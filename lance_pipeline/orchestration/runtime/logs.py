"""Forwards the library's log messages to the log of the step that calls it."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg


class _StepLog(logging.Handler):
    def __init__(self, log: dg.DagsterLogManager) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._log.log(record.levelno, record.getMessage())
        except Exception:  # noqa: BLE001
            # As in the standard library's handlers: an unwritable log stops nothing.
            self.handleError(record)


@contextmanager
def library_warnings(log: dg.DagsterLogManager) -> Iterator[None]:
    """Show warnings from this package's loggers on the page of the run.

    Args:
        log: log of the step.
    """
    logger, handler = logging.getLogger("lance_pipeline"), _StepLog(log)
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    # Some libraries add a handler to the root logger, which would print them again.
    logger.propagate = False
    # Set it here rather than inherit it: mlflow.pytorch sets the root logger's level to ERROR when it is imported.
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate
