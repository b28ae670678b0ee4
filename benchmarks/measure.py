"""Run a contestant in a process of its own, and watch the memory of that process and its children."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TextIO

_REPO = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
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


def measure(name: str, root: str, out: str, tiny: str, python: str = sys.executable) -> Measurement:
    """Run a contestant with the interpreter ``python``, all its temporary files in ``<out>.tmp``."""
    temporary = f"{out}.tmp"
    os.makedirs(temporary, exist_ok=True)
    command = [python, "-m", "benchmarks.child", name, root, out, tiny]
    # What the runs before have written must not be flushed to the disk during this one.
    os.sync()
    with open(f"{temporary}/stdout", "w+") as stdout, open(f"{temporary}/stderr", "w+") as stderr:
        process = subprocess.Popen(  # noqa: S603
            command, cwd=_REPO, env=_environment(temporary), stdout=stdout, stderr=stderr, start_new_session=True
        )
        try:
            peak = _watch(process)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        printed, complaints = _lines(stdout), _lines(stderr)
    shutil.rmtree(temporary)
    if process.wait():
        return Measurement(error=(complaints or [f"exit status {process.returncode}"])[-1])
    facts = json.loads(printed[-1])
    return Measurement(facts["images"], facts["seconds"], max(peak, facts["peak"]))


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


def _watch(process: subprocess.Popen[bytes]) -> int:
    """Wait for the end, or for the limit of time; the largest memory seen."""
    peak, end = 0, time.monotonic() + _LIMIT_SECONDS
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
