"""Runs one part in a separate process: ``python -m benchmarks.gpu.part NAME JOB``, the job as JSON.

Each figure is saved immediately, so none is lost if the process ends early.
"""

import importlib
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.gpu.sizes import FULL, TINY, Sizes

PARTS = ("tests", "step", "pipeline", "digits", "fashion")


@dataclass(frozen=True)
class Job:
    """The job of a part.

    Attributes:
        out: the JSON file for the figures.
        work: an existing folder for all other files.
        tiny: a trial on the CPU, with very small sizes.
        epochs: the epochs of a training on the small images; None uses those of the sizes.
        fashion: the folder with the files of Fashion-MNIST; "" for the folder of its package.
        until: a Unix time, soon after which the part is killed.
    """

    out: str
    work: str
    tiny: bool = False
    epochs: int | None = None
    fashion: str = ""
    until: float = float("inf")

    def fits(self, seconds: float) -> bool:
        """Whether that many seconds are left."""
        return time.time() + seconds < self.until

    @property
    def sizes(self) -> Sizes:
        """How much to measure."""
        return TINY if self.tiny else FULL

    @property
    def device(self) -> str:
        """The training device, as in the settings."""
        return "cpu" if self.tiny else "cuda"

    def json(self) -> str:
        """The job for the command line."""
        return json.dumps(asdict(self))


class FailedCommandError(RuntimeError):
    """A command failed."""


class Figures:
    """The figures of a part, and the errors while they were measured."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._figures: dict[str, Any] = {}
        self.errors: dict[str, str] = {}
        self._write()

    def put(self, name: str, value: Any) -> None:
        """Add a figure, which must be serializable as JSON, and save all figures."""
        self._figures[name] = value
        self._write()

    def __getitem__(self, name: str) -> Any:
        return self._figures[name]

    @contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """A context that records an exception instead of raising it."""
        print(f"{what} …", flush=True)
        try:
            yield
        except Exception as error:  # noqa: BLE001
            traceback.print_exc()
            self.errors[what] = reason(error)
            self._write()

    def _write(self) -> None:
        write_json(self._path, {"figures": self._figures, "errors": self.errors})


def reason(error: BaseException) -> str:
    """An error on one line."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:300]}"


def printed_by(command: list[str], limit: float | None = None) -> str:
    """The last line that a command prints; it is killed after the given number of seconds.

    Raises:
        FailedCommandError: the command failed; the message is its last line of errors.
        subprocess.TimeoutExpired: the command took too long.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit)  # noqa: S603
    print(done.stderr, flush=True)
    if done.returncode:
        raise FailedCommandError((done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1])
    return done.stdout.strip().splitlines()[-1]


def write_json(path: str, content: Any) -> None:
    """Replace a file atomically."""
    with open(f"{path}.new", "w") as file:
        json.dump(content, file, indent=1)
    os.replace(f"{path}.new", path)


def main(name: str, job: str) -> None:
    """Measure; the exit status says whether everything succeeded."""
    asked = Job(**json.loads(job))
    figures = Figures(asked.out)
    with figures.attempt(name):
        importlib.import_module(f"benchmarks.gpu.{name}").measure(asked, figures)
    sys.exit("; ".join(f"{what}: {error}" for what, error in figures.errors.items()) or None)


if __name__ == "__main__":
    main(*sys.argv[1:])
