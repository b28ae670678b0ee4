"""One part in a process of its own: ``python -m benchmarks.gpu.part NAME JOB``, the job as JSON.

Its figures are written after each of them, so that whatever ends the process loses none.
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
    """What a part is asked for.

    Attributes:
        out: the JSON file that it writes its figures to.
        work: a folder for all else, which is there.
        tiny: a trial on the CPU, with very small sizes.
        epochs: of a training on the small images; those of the sizes when None.
        fashion: the folder with the files of Fashion-MNIST; where its package puts them when empty.
        until: a Unix time, soon after which the part is killed.
    """

    out: str
    work: str
    tiny: bool = False
    epochs: int | None = None
    fashion: str = ""
    until: float = float("inf")

    def fits(self, seconds: float) -> bool:
        """Whether there is still so much time."""
        return time.time() + seconds < self.until

    @property
    def sizes(self) -> Sizes:
        """How much to measure."""
        return TINY if self.tiny else FULL

    @property
    def device(self) -> str:
        """The device that trains, as a setting names it."""
        return "cpu" if self.tiny else "cuda"

    def json(self) -> str:
        """As the command line takes it."""
        return json.dumps(asdict(self))


class FailedCommandError(RuntimeError):
    """A command ended with a failure."""


class Figures:
    """The figures of a part, and what went wrong while they were measured."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._figures: dict[str, Any] = {}
        self.errors: dict[str, str] = {}
        self._write()

    def put(self, name: str, value: Any) -> None:
        """Keep a figure, which JSON can hold; at once on disk."""
        self._figures[name] = value
        self._write()

    def __getitem__(self, name: str) -> Any:
        return self._figures[name]

    @contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """Within, a failure is noted, and what follows still runs."""
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
    """The last line that a command prints; it is killed after so many seconds.

    Raises:
        FailedCommandError: it failed; the message is the last line of its complaint.
        subprocess.TimeoutExpired: it took too long.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit)  # noqa: S603
    print(done.stderr, flush=True)
    if done.returncode:
        raise FailedCommandError((done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1])
    return done.stdout.strip().splitlines()[-1]


def write_json(path: str, content: Any) -> None:
    """Replace a file as a whole."""
    with open(f"{path}.new", "w") as file:
        json.dump(content, file, indent=1)
    os.replace(f"{path}.new", path)


def main(name: str, job: str) -> None:
    """Measure; the exit status says whether all went well."""
    asked = Job(**json.loads(job))
    figures = Figures(asked.out)
    with figures.attempt(name):
        importlib.import_module(f"benchmarks.gpu.{name}").measure(asked, figures)
    sys.exit("; ".join(f"{what}: {error}" for what, error in figures.errors.items()) or None)


if __name__ == "__main__":
    main(*sys.argv[1:])
