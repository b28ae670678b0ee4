"""What a person sees in the terminal of a run, beside what its log keeps."""

import atexit
import os
import re
import shlex
import sys
from collections.abc import Sequence

COMMAND_VARIABLE = "LANCE_PIPELINE_COMMAND"
"""The command that a person has typed, where it started this process's as another one."""
SAVED = "Saved "
"""How the line of a training begins that has stopped and can resume."""

# Dagster's console shows the stack trace of every error, after its class and message. The event log keeps it.
_ERROR = re.compile(
    r"\n\n(?P<kind>dagster\._core\.errors\.DagsterExecutionInterruptedError"
    r"|dagster\._core\.definitions\.events\.Failure|lance_pipeline\.(?:errors|storage)\.\w+(?:\.\w+)*)"
    r"(?:: (?P<message>.*?))?\n\nStack Trace:\n.*",
    re.DOTALL,
)
_GO_ON = "To go on: "
# What an `Interrupted` says.
_STOP = re.compile(rf"\n\n(?:stopped: .*|.*{_GO_ON}.*)\s*\Z")
_OPTIONS_OF_ONE_RUN = ("-c", "--config", "--config-json")


def without_trace(message: str) -> str:
    """A line of Dagster's console without the stack trace of a wanted stop, or of an error that explains itself."""
    return _STOP.sub("", _ERROR.sub(_explanation, message))


def _explanation(error: re.Match[str]) -> str:
    wanted = "Interrupted" in error["kind"] or not error["message"]
    return "" if wanted else f"\n{error['message'].strip()}"


def say_last(line: str) -> None:
    """Print a line to stderr when this process ends, after all that others print."""
    atexit.register(print, line, file=sys.stderr, flush=True)


def stopped_line(log: Sequence[str]) -> str:
    """What was saved when a run was stopped, and the command that resumes it.

    Args:
        log: the messages of the run.
    """
    saved = next((one.partition(". ")[0] for one in reversed(log) if one.startswith(SAVED)), "Stopped")
    return f"{saved}. {_GO_ON}{own_command()}"


def own_command() -> str:
    """The command that starts again what this process runs."""
    if typed := os.environ.get(COMMAND_VARIABLE):
        return typed
    words = iter(sys.argv[1:])
    kept = []
    for word in words:
        if word in _OPTIONS_OF_ONE_RUN:
            next(words, None)
        elif not word.startswith(tuple(f"{option}=" for option in _OPTIONS_OF_ONE_RUN)):
            kept.append(word)
    # A server of the UI's, or a run that one has started.
    if kept[:1] == ["api"]:
        return "materialize the same assets again"
    return shlex.join(["dagster", *kept])
