"""How an error of the user's reaches the user."""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg
from dagster._core.errors import DagsterExecutionInterruptedError, DagsterUserCodeProcessError
from dagster_shared.error import SerializableErrorInfo
from sqlalchemy.exc import SQLAlchemyError

from lance_pipeline.errors import InputError, Stopped
from lance_pipeline.orchestration.runtime.databases import explained
from lance_pipeline.storage.redacted_errors import without_secrets
from lance_pipeline.storage.redaction import redact

# The list lives in the event log.
_LARGEST_LIST = 1000


class Interrupted(DagsterExecutionInterruptedError, DagsterUserCodeProcessError):  # noqa: N818 - nothing went wrong
    """An end that somebody asked for, of which Dagster stores and shows the message alone.

    It takes this for an error of another process, which has brought its own stack trace: none.
    """

    def __init__(self, message: str) -> None:
        shown = SerializableErrorInfo(message, stack=[], cls_name=DagsterExecutionInterruptedError.__name__)
        super().__init__(message, user_code_process_error_infos=[shown])


@contextmanager
def clear_failures() -> Iterator[None]:
    """Turns an InputError into the step's failure, described by its message and never retried.

    So it does with other errors whose reason is a full disk or a damaged database.
    A step that stopped as it was asked to is interrupted for Dagster. Dagster stores messages and causes of all errors,
    which therefore quote no secrets.
    """
    with without_secrets():
        try:
            yield
        except Stopped as stopped:
            raise Interrupted(str(stopped)) from None
        except DagsterExecutionInterruptedError as interrupted:
            raise Interrupted(str(interrupted) or "stopped: interrupted") from None
        except (InputError, OSError, SQLAlchemyError) as cause:
            if (error := explained(cause)) is None:
                raise
            shown = [redact(line) for line in error.details[:_LARGEST_LIST]]
            metadata = {"details": "\n".join(shown), "details_in_all": len(error.details)} if shown else None
            raise dg.Failure(description=redact(error), metadata=metadata, allow_retries=False) from None
