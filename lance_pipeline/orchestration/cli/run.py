"""A run from the terminal, without Dagster's additional output."""

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence

from lance_pipeline.errors import InputError
from lance_pipeline.orchestration.cli.code_location import asset_specs
from lance_pipeline.orchestration.cli.summary import print_summary
from lance_pipeline.orchestration.defs_yaml.isolation import broken_reason
from lance_pipeline.orchestration.nearest import did_you_mean
from lance_pipeline.orchestration.runtime.instance import prepare_instance
from lance_pipeline.orchestration.runtime.terminal import COMMAND_VARIABLE, STOPPED_STEP

# "2026-11-28 02:17:07 +0000 - dagster - INFO - __ASSET_JOB - <run id> - [<process> - ]<step> - <text>"
_LINE = re.compile(r"\S+ \S+ \S+ - dagster - (\w+) - \S+ - [\w-]{36} - (?:\d+ - )?(?:(\w+) - )?(.*)", re.DOTALL)

_INTERRUPTED = 128 + signal.SIGINT
_TRACE = "Traceback (most recent call last):"
# Dagster prints this for each step after a failed one, which has already reported its error.
_NOT_EXECUTED = " - Dependencies for step "
# A stopped run says so in its last line; for Dagster's command it has failed.
_CANCELED, _FAILED = " - RUN_CANCELED - ", "Error: Materialization failed."
_NOISE = (_NOT_EXECUTED, _CANCELED, f" - {STOPPED_STEP}")


def run(dataset: str, names: Sequence[str], module: str) -> int:
    """Materialize assets of a dataset and print only useful lines; returns Dagster's exit status.

    Args:
        dataset: name of the dataset.
        names: names of its assets, without the dataset's name; empty selects all.
        module: module of the definitions, as Dagster's ``-m`` takes it.

    Raises:
        InputError: there is no such dataset, asset or module, or the dataset cannot be loaded.
    """
    keys = _keys(dataset, names, module)
    prepare_instance()
    status = shown_run(["asset", "materialize", "-m", module, "--select", ",".join(keys)])
    if status == 0 and not names:
        print_summary(dataset, module)
    return status


def shown_run(words: Sequence[str]) -> int:
    """Run a Dagster command and print only useful lines; returns its exit status.

    Args:
        words: the words of the command, without ``dagster``.
    """
    command = [sys.executable, "-m", "dagster", *words]
    typed = {COMMAND_VARIABLE: shlex.join(["lance-pipeline", *sys.argv[1:]])}
    environment = os.environ | typed | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(  # noqa: S603
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        # The terminal sends Ctrl-C to the run too; its remaining output is still needed.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda number, _: process.send_signal(number))
        lines, canceled = iter(process.stdout or ()), False
        for line in lines:
            canceled |= _CANCELED in line
            if line.startswith(_TRACE):
                # Once Dagster has started a run, Ctrl-C no longer raises KeyboardInterrupt.
                if "KeyboardInterrupt" not in (rest := [line, *lines])[-1]:
                    print("".join(rest), end="")
            elif not (_is_noise(line) or (canceled and line.startswith(_FAILED))):
                print(_shown(line), end="", flush=True)
    # A shell's convention for an exit caused by a signal.
    status = process.returncode if process.returncode >= 0 else 128 - process.returncode
    if status == _INTERRUPTED:
        # Before a run starts there is nothing to save, and Dagster says nothing.
        print("\nStopped.", file=sys.stderr)
    return status


def _is_noise(line: str) -> bool:
    return any(one in line for one in _NOISE)


def _keys(dataset: str, names: Sequence[str], module: str) -> list[str]:
    """The keys of the assets to materialize."""
    specs = asset_specs(module)
    known = {name: [spec for spec in specs if spec.group_name == name] for name in {spec.key.path[0] for spec in specs}}
    if not known.get(dataset):
        raise InputError(unknown("dataset", dataset, [name for name, group in known.items() if group]))
    for reason in filter(None, map(broken_reason, known[dataset])):
        raise InputError(reason)
    keys = {"/".join(spec.key.path[1:]): spec.key.to_user_string() for spec in known[dataset]}
    for name in names:
        if name not in keys:
            raise InputError(unknown(f"asset of {dataset}", name, list(keys)))
    return [keys[name] for name in names] or list(keys.values())


def unknown(what: str, name: str, known: list[str]) -> str:
    """The message for an unknown name, with the nearest known one."""
    return f"there is no {what} {name!r}; expected one of {', '.join(sorted(known))}.{did_you_mean(name, known)}"


def _shown(line: str) -> str:
    """A line of Dagster's output without time, job and run."""
    match = _LINE.fullmatch(line)
    if match is None:
        return line
    level, step, text = match.groups()
    what = f"{(step or '').split('__')[-1]}: " if step else ""
    return f"{'' if level == 'INFO' else level + ' '}{what}{text}"
