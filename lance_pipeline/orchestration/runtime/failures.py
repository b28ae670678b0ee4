"""How errors that explain themselves reach the user, and which of them a step is retried after."""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg
from dagster import DagsterExecutionInterruptedError
from dagster._core.errors import DagsterUserCodeProcessError
from dagster_shared.error import SerializableErrorInfo

from lance_pipeline.errors import ServiceError, Stopped
from lance_pipeline.orchestration.runtime.databases import as_explained_error
from lance_pipeline.orchestration.runtime.retries import StepContext, retry_of
from lance_pipeline.storage.outages import is_outage
from lance_pipeline.storage.redacted_errors import redacted, without_secrets
from lance_pipeline.storage.redaction import redact

# Dagster stores the list in its event log.
_LARGEST_LIST = 1000


class Interrupted(DagsterExecutionInterruptedError, DagsterUserCodeProcessError):  # noqa: N818 - nothing went wrong
    """A requested end of a step or run; Dagster stores and shows only the message.

    Dagster takes it for an error from another process that brings its own stack trace, which is empty here.
    """

    def __init__(self, message: str) -> None:
        shown = SerializableErrorInfo(message, stack=[], cls_name=DagsterExecutionInterruptedError.__name__)
        super().__init__(message, user_code_process_error_infos=[shown])


@contextmanager
def clear_failures(context: StepContext) -> Iterator[None]:
    """Turn errors that explain themselves into what Dagster does about them.

    After an InputError the step fails, described by its message, and is never retried. After a ServiceError it is
    retried, with back-off, as often as its `Retries` say. The same applies to other errors that a full disk, a damaged
    database or an outage has caused. For Dagster, a step that stopped on request is interrupted. Dagster stores the
    messages and causes of all errors, so secrets are removed from them.

    Args:
        context: context of the step.
    """
    with without_secrets():
        try:
            yield
        except Stopped as stopped:
            raise Interrupted(str(stopped)) from None
        except DagsterExecutionInterruptedError as interrupted:
            raise Interrupted(str(interrupted) or "stopped: interrupted") from None
        except (dg.Failure, dg.RetryRequested):
            raise
        except Exception as cause:
            if (error := as_explained_error(cause)) is None:
                raise
            # A file that cannot be used because the server of its disk is away is no fault of the user's.
            if (isinstance(error, ServiceError) or is_outage(cause)) and (retry := retry_of(context, error)):
                raise retry from redacted(cause)
            shown = [redact(line) for line in error.details[:_LARGEST_LIST]]
            metadata = {"details": "\n".join(shown), "details_in_all": len(error.details)} if shown else None
            raise dg.Failure(description=redact(error), metadata=metadata, allow_retries=False) from redacted(cause)
