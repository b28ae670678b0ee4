"""What Dagster stores of a failed step, and after which errors the step is tried again."""

import errno
import os
import signal
import socket
from collections.abc import Callable

import dagster as dg
import pytest

from lance_pipeline.errors import InputError, ServiceError
from lance_pipeline.orchestration.runtime.failures import clear_failures
from lance_pipeline.orchestration.runtime.retries import RETRIES_TAG
from lance_pipeline_tests.browser.launcher import await_condition, free_port
from lance_pipeline_tests.conftest import Shell
from lance_pipeline_tests.orchestration.trainings import read_until

CONNECTING = """
import os
import socket

import dagster as dg
from lance_pipeline.orchestration.runtime.executor import default_executor
from lance_pipeline.orchestration.runtime.failures import clear_failures
from lance_pipeline.orchestration.runtime.retries import RETRIES_TAG

@dg.asset(op_tags={RETRIES_TAG: '{"times": 5, "delay": DELAY}'})
def connected(context: dg.AssetExecutionContext):
    with clear_failures(context):
        socket.create_connection(("127.0.0.1", PORT))

defs = dg.Definitions([connected], executor=default_executor())
"""


def run(body: Callable[[], None], times: int = 2) -> tuple[dg.ExecuteInProcessResult, int]:
    """The result of a step with this body, and how often it ran."""
    attempts = []

    @dg.asset(op_tags={RETRIES_TAG: f'{{"times": {times}, "delay": 0}}'})
    def step(context: dg.AssetExecutionContext):
        with clear_failures(context):
            attempts.append(context.retry_number)
            body()

    with dg.DagsterInstance.ephemeral() as instance:
        return dg.materialize([step], instance=instance, raise_on_error=False), len(attempts)


def refused() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        socket.create_connection(closed.getsockname())


def mistaken() -> None:
    try:
        open("/nowhere/labels.csv").close()
    except OSError as error:
        raise InputError("/nowhere/labels.csv is missing. Correct the path.") from error


def stale() -> None:
    try:
        raise OSError(errno.ESTALE, "Stale file handle")
    except OSError as error:
        raise InputError("cannot write /shared/model.safetensors. Get write access.") from error


def away() -> None:
    raise ServiceError("the store is away.")


def with_a_bug() -> None:
    raise ZeroDivisionError


def stored_error(result: dg.ExecuteInProcessResult):
    error = result.get_step_failure_events()[0].step_failure_data.error
    assert error is not None
    return error


@pytest.mark.parametrize(("body", "attempts"), [(mistaken, 1), (with_a_bug, 1), (away, 3), (refused, 3), (stale, 3)])
def test_only_an_outage_is_tried_again(body: Callable[[], None], attempts: int):
    result, made = run(body)
    assert not result.success
    assert made == attempts
    assert len([event for event in result.all_events if event.is_step_up_for_retry]) == attempts - 1
    failure = result.get_step_failure_events()[0].step_failure_data.user_failure_data
    assert (failure is None) == (body is with_a_bug)


def test_zero_retries_fail_at_once():
    assert run(away, times=0)[1] == 1


def test_the_event_log_keeps_cause_and_place():
    cause = stored_error(run(mistaken)[0]).cause
    assert cause is not None
    assert (cause.cls_name, cause.cause and cause.cause.cls_name) == ("InputError", "FileNotFoundError")
    for error, line in ((cause, "raise InputError("), (cause.cause, 'open("/nowhere/labels.csv")')):
        assert error is not None
        assert any("mistaken" in frame and line in frame for frame in error.stack)


def test_waits_of_a_retry_grow():
    with dg.DagsterInstance.ephemeral() as instance:

        @dg.asset(op_tags={RETRIES_TAG: '{"times": 3, "delay": 0.01}'})
        def step(context: dg.AssetExecutionContext):
            with clear_failures(context):
                away()

        result = dg.materialize([step], instance=instance, raise_on_error=False)
    retries = [event.step_retry_data.seconds_to_wait for event in result.all_events if event.is_step_up_for_retry]
    assert retries == pytest.approx([0.01, 0.03, 0.07])


def start(shell: Shell, port: int, delay: float):
    text = CONNECTING.replace("PORT", str(port)).replace("DELAY", str(delay))
    (shell.folder / "connecting.py").write_text(text)
    return shell.start("dagster", "asset", "materialize", "-m", "connecting", "--select", "connected")


def test_a_run_in_a_shell_goes_on_when_the_service_is_back(shell: Shell):
    port = free_port()
    process = start(shell, port, 1)
    output = read_until(process, r"Trying again in 1 seconds \(1 of 5\)")
    assert "Traceback" not in output
    assert "Stack Trace" not in output
    with socket.create_server(("127.0.0.1", port)):
        rest, _ = process.communicate(timeout=100)
    assert process.returncode == 0, output + rest


def test_a_run_that_waits_for_a_service_can_be_stopped(shell: Shell):
    process = start(shell, free_port(), 100)
    read_until(process, "Trying again in 100 seconds")
    with shell.instance() as instance:
        run_id = instance.get_runs()[0].run_id
        await_condition(
            lambda: any(
                one.dagster_event and one.dagster_event.is_step_up_for_retry for one in instance.all_logs(run_id)
            ),
            30,
            "the step waits",
        )
        os.killpg(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=60)
        assert process.returncode != 0
        assert output.splitlines()[-1].startswith("Stopped. What was finished is saved. To resume: dagster asset")
        assert "Traceback" not in output
        assert "Stack Trace" not in output
        assert instance.get_runs()[0].status == dg.DagsterRunStatus.CANCELED
