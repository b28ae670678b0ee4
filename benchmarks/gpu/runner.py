"""Runs a part until it ends or its time is up."""

import contextlib
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from typing import Any

import psutil

from benchmarks.gpu.part import Job
from benchmarks.measure import REPO

_LINES = 15


@dataclass
class Part:
    """The outcome of a part.

    Attributes:
        status: ``ran``, ``failed`` (in part or completely), ``timed out`` or ``left out``.
        seconds: its duration.
        figures: the figures that were measured.
        errors: the failures and their reasons.
        output: the last lines that it printed, unless everything succeeded.
    """

    status: str
    seconds: float = 0.0
    figures: dict[str, Any] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    output: list[str] = field(default_factory=list)


def run_part(name: str, job: Job, limit: float) -> Part:
    """Run a part in a separate process, which is killed after the given number of seconds."""
    os.makedirs(job.work)
    job = replace(job, until=time.time() + limit)
    log = os.path.join(job.work, "output")
    command = [sys.executable, "-m", "benchmarks.gpu.part", name, job.json()]
    began = time.monotonic()
    with open(log, "wb") as output:
        process = subprocess.Popen(  # noqa: S603
            command, cwd=REPO, env=_environment(job.work), stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
        try:
            status = "failed" if process.wait(limit) else "ran"
        except subprocess.TimeoutExpired:
            status = "timed out"
        finally:
            _kill_tree(process)
    seconds = time.monotonic() - began
    try:
        with open(job.out) as file:
            found = json.load(file)
    except (OSError, ValueError):
        found = {"figures": {}, "errors": {}}
    with open(log, errors="replace") as file:
        lines = [line.rstrip() for line in file if line.strip()]
    return Part(status, seconds, found["figures"], found["errors"], [] if status == "ran" else lines[-_LINES:])


def _environment(work: str) -> dict[str, str]:
    """Keep all files of the part in its folder, and do not wait for devices that other trainings use."""
    paths = [REPO, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    own = {
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUNBUFFERED": "1",
        "TMPDIR": work,
        "XDG_RUNTIME_DIR": work,
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    return os.environ | own


def _kill_tree(process: subprocess.Popen[bytes]) -> None:
    """Kill the process and its descendants, which may have their own sessions."""
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(process.pid)
        for one in [*root.children(recursive=True), root]:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
    process.wait()
