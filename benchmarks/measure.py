"""Run a contestant in a process of its own, and watch the memory of that process and its children."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TextIO

REPO = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_SAMPLE_SECONDS = 0.1
_LIMIT_SECONDS = 1800
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Measurement:
    """One run of one contestant.

    Attributes:
        images: how many it read or wrote.
        seconds: for its work alone, without imports and warm-up.
        peak: the largest sum of the resident memory of its processes, in bytes; a page that two share counts twice.
        error: why it failed; empty when it did not.
    """

    images: int = 0
    seconds: float = 0.0
    peak: int = 0
    error: str = ""


@dataclass(frozen=True)
class Loading(Measurement):
    """One run of one loader.

    Attributes:
        images: in an epoch.
        seconds: of the median epoch.
        epochs: seconds of each.
        first: seconds from opening the loader to its first batch.
        reopened: the same in another process that finds what this one has cached; None for those that cache nothing.
    """

    epochs: tuple[float, ...] = ()
    first: float = 0.0
    reopened: float | None = None


@dataclass(frozen=True)
class Ended:
    """A child process at its end.

    Attributes:
        facts: what it printed as its last line, as JSON; empty when it failed.
        peak: the largest sum of the resident memory of its processes, in bytes.
        error: why it failed; empty when it did not.
    """

    facts: dict[str, Any] = field(default_factory=dict)
    peak: int = 0
    error: str = ""


def measure(name: str, root: str, out: str, tiny: str, python: str = sys.executable) -> Measurement:
    """Run a contestant with the interpreter ``python``, all its temporary files in ``<out>.tmp``."""
    ended = run_child([python, "-m", "benchmarks.child", name, root, out, tiny], f"{out}.tmp")
    if ended.error:
        return Measurement(error=ended.error)
    return Measurement(ended.facts["images"], ended.facts["seconds"], max(ended.peak, ended.facts["peak"]))


def own_peak() -> int:
    """The largest resident memory of this process so far, in bytes."""
    with open("/proc/self/status") as file:
        found = re.search(r"VmHWM:\s*(\d+) kB", file.read())
    return int(found[1]) * 1024 if found else 0


def run_child(command: list[str], temporary: str, limit: float = _LIMIT_SECONDS) -> Ended:
    """Run a process to its end, all its temporary files in ``temporary``, which is then deleted.

    After ``limit`` seconds it is killed.
    """
    os.makedirs(temporary, exist_ok=True)
    # What the runs before have written must not be flushed to the disk during this one.
    os.sync()
    with open(f"{temporary}/stdout", "w+") as stdout, open(f"{temporary}/stderr", "w+") as stderr:
        process = subprocess.Popen(  # noqa: S603
            command, cwd=REPO, env=_environment(temporary), stdout=stdout, stderr=stderr, start_new_session=True
        )
        try:
            peak = _watch(process, limit)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        printed, complaints = _lines(stdout), _lines(stderr)
    shutil.rmtree(temporary)
    if process.wait():
        return Ended(error=(complaints or [f"exit status {process.returncode}"])[-1])
    return Ended(json.loads(printed[-1]), peak)


@contextlib.contextmanager
def empty_folder(path: str) -> Iterator[None]:
    """A folder that is empty at the start and gone at the end."""
    shutil.rmtree(path, ignore_errors=True)
    os.makedirs(path)
    try:
        yield
    finally:
        shutil.rmtree(path, ignore_errors=True)


def bytes_below(path: str) -> int:
    """The size of all files below a folder."""
    return sum(os.path.getsize(os.path.join(folder, name)) for folder, _, names in os.walk(path) for name in names)


def _environment(temporary: str) -> dict[str, str]:
    return os.environ | {
        "TMPDIR": temporary,
        "HF_HOME": temporary,
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "DATA_OPTIMIZER_CACHE_FOLDER": f"{temporary}/litdata",
        "DATA_OPTIMIZER_DATA_CACHE_FOLDER": f"{temporary}/litdata_data",
    }


def _watch(process: subprocess.Popen[bytes], limit: float) -> int:
    """Wait for the end, or for the limit of time; the largest memory seen."""
    peak, end = 0, time.monotonic() + limit
    while process.poll() is None and time.monotonic() < end:
        peak = max(peak, _resident(process.pid))
        time.sleep(_SAMPLE_SECONDS)
    return peak


def _lines(file: TextIO) -> list[str]:
    file.seek(0)
    return [line.strip() for line in file if line.strip()]


def _resident(session: int) -> int:
    """The resident bytes of all processes of a session."""
    total = 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat") as file:
                # The program's name stands in brackets and may hold anything.
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session:
            total += int(fields[21]) * _PAGE
    return total
