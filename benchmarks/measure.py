"""Runs a contestant in a separate process, and measures the memory of that process and its children."""

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
        images: the number of images read or written.
        seconds: the duration of the work, without imports and warm-up.
        peak: the peak of the summed resident memory of its processes, in bytes; shared pages count several times.
        error: why it failed; empty if it succeeded.
    """

    images: int = 0
    seconds: float = 0.0
    peak: int = 0
    error: str = ""


@dataclass(frozen=True)
class Loading(Measurement):
    """One run of one loader.

    Attributes:
        images: the number of images in an epoch.
        seconds: the duration of the median epoch.
        epochs: the seconds of each epoch.
        first: seconds from opening the loader to its first batch.
        reopened: the same in another process that uses the cache of this one; None for loaders without a cache.
    """

    epochs: tuple[float, ...] = ()
    first: float = 0.0
    reopened: float | None = None


@dataclass(frozen=True)
class Ended:
    """The result of a child process.

    Attributes:
        facts: the JSON in its last line of output; empty if it failed.
        peak: the peak of the summed resident memory of its processes, in bytes.
        error: why it failed; empty if it succeeded.
    """

    facts: dict[str, Any] = field(default_factory=dict)
    peak: int = 0
    error: str = ""


def measure(name: str, root: str, out: str, tiny: str, python: str = sys.executable) -> Measurement:
    """Run a contestant with the interpreter ``python`` and its temporary files in ``<out>.tmp``."""
    ended = run_child([python, "-m", "benchmarks.child", name, root, out, tiny], f"{out}.tmp")
    if ended.error:
        return Measurement(error=ended.error)
    return Measurement(ended.facts["images"], ended.facts["seconds"], max(ended.peak, ended.facts["peak"]))


def own_peak() -> int:
    """The peak resident memory of this process so far, in bytes."""
    with open("/proc/self/status") as file:
        found = re.search(r"VmHWM:\s*(\d+) kB", file.read())
    return int(found[1]) * 1024 if found else 0


def run_child(command: list[str], temporary: str, limit: float = _LIMIT_SECONDS) -> Ended:
    """Run a process with its temporary files in ``temporary``, which is deleted afterwards.

    The process is killed after ``limit`` seconds.
    """
    os.makedirs(temporary, exist_ok=True)
    # Flush what earlier runs have written, so that it does not slow down this one.
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
    """A context with an empty folder, which is deleted at the end."""
    shutil.rmtree(path, ignore_errors=True)
    os.makedirs(path)
    try:
        yield
    finally:
        shutil.rmtree(path, ignore_errors=True)


def bytes_below(path: str) -> int:
    """The total size of all files below a folder."""
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
    """Wait until the process ends or the time limit passes; returns the peak memory."""
    peak, end = 0, time.monotonic() + limit
    while process.poll() is None and time.monotonic() < end:
        peak = max(peak, _resident(process.pid))
        time.sleep(_SAMPLE_SECONDS)
    return peak


def _lines(file: TextIO) -> list[str]:
    file.seek(0)
    return [line.strip() for line in file if line.strip()]


def _resident(session: int) -> int:
    """The resident memory of all processes of a session, in bytes."""
    total = 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat") as file:
                # The program's name is in brackets and may contain anything.
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session:
            total += int(fields[21]) * _PAGE
    return total
