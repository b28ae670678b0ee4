"""Retrying a step while a store, server or database is away."""

import dagster as dg

from lance_pipeline.errors import ExplainedError
from lance_pipeline.orchestration.attributes import Retries
from lance_pipeline.storage.redaction import redact

RETRIES_TAG = ".dagster/lance_pipeline.retries"
"""Tag of a step: its `Retries`, as JSON; the defaults where it is absent."""

StepContext = (
    dg.OpExecutionContext
    | dg.AssetExecutionContext
    | dg.AssetCheckExecutionContext
    | dg.InputContext
    | dg.OutputContext
)


class Retry(dg.RetryRequested):
    """A request to run the step again, described by the error that it failed with."""

    def __init__(self, message: str, retries: int, seconds: float) -> None:
        super().__init__(max_retries=retries, seconds_to_wait=seconds)
        self._message = message

    def __str__(self) -> str:
        return self._message


def retry_of(context: StepContext, error: ExplainedError) -> Retry | None:
    """The request to run a failed step again, which is logged too; None if there are no more retries.

    A `RetryPolicy` of Dagster's would retry any error, and steps that were asked to stop.

    Args:
        context: context of the step.
        error: what the step failed with.
    """
    step = _step(context)
    retries = Retries.model_validate_json((step.step.tags or {}).get(RETRIES_TAG, "{}"))
    number = step.previous_attempt_count + 1
    if number > retries.times or step.retry_mode.disabled:
        return None
    policy = dg.RetryPolicy(retries.times, retries.delay, dg.Backoff.EXPONENTIAL)
    seconds = policy.calculate_delay(number)
    message = f"{redact(error)} Trying again in {seconds:g} seconds ({number} of {retries.times})."
    # Dagster's own event is not shown in the terminal.
    context.log.warning(message)
    return Retry(message, retries.times, seconds)


def _step(context: StepContext) -> dg.StepExecutionContext:
    if isinstance(context, dg.InputContext | dg.OutputContext):
        return context.step_context
    return context.op_execution_context.get_step_execution_context()
