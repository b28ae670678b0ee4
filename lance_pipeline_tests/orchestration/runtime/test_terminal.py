"""Output in the terminal of a run."""

import sys

import dagster as dg
import pytest
from dagster._utils.error import serializable_error_info_from_exc_info

from lance_pipeline.orchestration.runtime.failures import Interrupted
from lance_pipeline.orchestration.runtime.terminal import COMMAND_VARIABLE, own_command, stopped_line, without_trace

STACK = '\n\nStack Trace:\n  File "x.py", line 1, in f\n    g()\n'
LINE = 'job - run - 12 - digits__resnet34 - STEP_FAILURE - Execution of step "digits__resnet34" failed.'
STOPPED = 'job - run - 12 - digits__resnet34 - Stopped step "digits__resnet34".'


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        ("dagster._core.errors.DagsterExecutionInterruptedError", ""),
        ("dagster._core.errors.DagsterExecutionInterruptedError: stopped: SIGINT", ""),
        ("dagster._core.definitions.events.Failure: the folder x is missing.\nSet another.", True),
        ("lance_pipeline.orchestration.runtime.retries.Retry: the folder x is missing.\nSet another.", True),
        ("lance_pipeline.errors.InputError: the folder x is missing.\nSet another.", True),
        ("lance_pipeline.storage.full_disk.FullDiskError: the folder x is missing.\nSet another.", True),
    ],
)
def test_a_stop_and_an_explained_error_have_no_stack(error: str, shown: str | bool):
    expected = f"{LINE}\nthe folder x is missing.\nSet another." if shown else STOPPED
    assert without_trace(f"{LINE}\n\n{error}{STACK}") == expected


def test_an_interruption_of_ours_is_said_once():
    for said in ("stopped: SIGINT", "Stopped. Saved after epoch 1 of 2. To resume: lance-pipeline run digits\n"):
        assert without_trace(f"{LINE}\n\n{said}") == STOPPED


def test_dagster_is_shown_the_message_of_an_interruption_alone():
    try:
        raise Interrupted("stopped: SIGINT")
    except dg.DagsterExecutionInterruptedError:
        shown = serializable_error_info_from_exc_info(sys.exc_info())
    assert shown.to_string() == "stopped: SIGINT"
    # The executor recognizes the interruption by this class name.
    assert shown.cls_name == "DagsterExecutionInterruptedError"


def test_a_bug_keeps_its_stack():
    for text in (f"{LINE}\n\nValueError: x{STACK}", LINE, ""):
        assert without_trace(text) == text


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (
            ["asset", "materialize", "--config-json", "{}", "-c=x.yaml", "-m", "a", "--select", 'key:"a/b"'],
            "dagster asset materialize -m a --select 'key:\"a/b\"'",
        ),
        (["api", "grpc", "--instance-ref", "{}"], "materialize the same assets again"),
        (["api", "execute_run", "{}"], "materialize the same assets again"),
        (["job", "execute", "-c", "x.yaml", "-j", "digits_retrain"], "dagster job execute -j digits_retrain"),
    ],
)
def test_the_command_that_resumes_asks_for_no_fresh_training(
    monkeypatch: pytest.MonkeyPatch, words: list[str], command: str
):
    monkeypatch.delenv(COMMAND_VARIABLE, raising=False)
    monkeypatch.setattr(sys, "argv", ["dagster", *words])
    assert own_command() == command


def test_the_last_line_says_what_was_saved_and_how_to_go_on(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(COMMAND_VARIABLE, "lance-pipeline run digits")
    log = ["Saved after epoch 1 of 16. Stopped (SIGTERM)", "Saved after epoch 3 of 16, batch 12 of 40. Stopped", "x"]
    expected = "Stopped. Saved after epoch 3 of 16, batch 12 of 40. To resume: lance-pipeline run digits"
    assert stopped_line(log) == expected
    assert stopped_line(["x"]) == "Stopped. What was finished is saved. To resume: lance-pipeline run digits"
