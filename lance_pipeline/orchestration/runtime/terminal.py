"""Output in the terminal of a run, besides the log."""

import atexit
import os
import re
import shlex
import sys
from collections.abc import Sequence

COMMAND_VARIABLE = "LANCE_PIPELINE_COMMAND"
"""The command that the user typed, if it started this process through another command."""
SAVED = "Saved "
"""Prefix of the log line of a training that has stopped and can resume."""

# Dagster's console shows the stack trace of every error after its class and message. The event log still has it.
_ERROR = re.compile(
    r"\n\n(?P<kind>dagster\._core\.errors\.DagsterExecutionInterruptedError"
    r"|dagster\._core\.definitions\.events\.Failure"
    r"|lance_pipeline\.(?:errors|storage|orchestration\.runtime\.retries)\.\w+(?:\.\w+)*)"
    r"(?:: (?P<message>.*?))?\n\nStack Trace:\n.*",
    re.DOTALL,
)
_INTERRUPTED = "DagsterExecutionInterruptedError"
_FAILED_STEP = re.compile(r'STEP_FAILURE - Execution of step "(\w+)" failed\.')
STOPPED_STEP = "Stopped step "
"""Beginning of the log line of a step that was asked to stop."""
_RESUME = "To resume: "
# The message of an `Interrupted`.
_STOP = re.compile(rf"\n\n(?:stopped: .*|.*{_RESUME}.*)\s*\Z")
_OPTIONS_OF_ONE_RUN = ("-c", "--config", "--config-json")


def without_trace(message: str) -> str:
    """A line of Dagster's console without the stack trace of a requested stop or a self-explanatory error."""
    shown = _STOP.sub("", _ERROR.sub(_explanation, message))
    stopped = _STOP.search(message) or _INTERRUPTED in message
    return _FAILED_STEP.sub(rf'{STOPPED_STEP}"\1".', shown) if stopped else shown


def _explanation(error: re.Match[str]) -> str:
    wanted = _INTERRUPTED in error["kind"] or not error["message"]
    return "" if wanted else f"\n{error['message'].strip()}"


def say_last(line: str) -> None:
    """Print a line to stderr when this process ends, after all other output."""
    atexit.register(print, line, file=sys.stderr, flush=True)


def stopped_line(log: Sequence[str]) -> str:
    """The last line of a stopped run: that it was stopped, what is saved, and the command that resumes it.

    Args:
        log: the messages of the run.
    """
    trained = (one.partition(". ")[0] for one in reversed(log) if one.startswith(SAVED))
    return f"Stopped. {next(trained, 'What was finished is saved')}. {_RESUME}{own_command()}"


def own_command() -> str:
    """The command that repeats what this process runs."""
    if typed := os.environ.get(COMMAND_VARIABLE):
        return typed
    words = iter(sys.argv[1:])
    kept = []
    for word in words:
        if word in _OPTIONS_OF_ONE_RUN:
            next(words, None)
        elif not word.startswith(tuple(f"{option}=" for option in _OPTIONS_OF_ONE_RUN)):
            kept.append(word)
    # A server of the UI, or a run started by one.
    if kept[:1] == ["api"]:
        return "materialize the same assets again"
    return shlex.join(["dagster", *kept])
