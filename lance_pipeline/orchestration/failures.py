"""How an error of the user's reaches the user."""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg
from dagster._core.errors import DagsterExecutionInterruptedError

from lance_pipeline.errors import InputError, Stopped

# The list lives in the event log.
_LARGEST_LIST = 1000


@contextmanager
def clear_failures() -> Iterator[None]:
    """Turns an InputError into the step's failure, described by its message and never retried.

    A step that stopped as it was asked to is interrupted for Dagster.
    """
    try:
        yield
    except Stopped as stopped:
        raise DagsterExecutionInterruptedError(str(stopped)) from None
    except InputError as error:
        shown = error.details[:_LARGEST_LIST]
        metadata = {"details": "\n".join(shown), "details_in_all": len(error.details)} if shown else None
        raise dg.Failure(description=str(error), metadata=metadata, allow_retries=False) from None
