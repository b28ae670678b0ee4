"""What the library logs, in the log of the step that calls it."""

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
            # As the standard library's handlers do: a log that cannot be written ends nothing.
            self.handleError(record)


@contextmanager
def library_warnings(log: dg.DagsterLogManager) -> Iterator[None]:
    """Show the warnings of this package's loggers on the page of the run.

    Args:
        log: the step's.
    """
    logger, handler = logging.getLogger("lance_pipeline"), _StepLog(log)
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    # Some library gives the root logger a handler of its own, which would print them again.
    logger.propagate = False
    # The root logger's does not count: mlflow.pytorch sets it to ERROR when it is imported.
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate
