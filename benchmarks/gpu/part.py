"""One part in a process of its own: ``python -m benchmarks.gpu.part NAME JOB``, the job as JSON.

Its figures are written after each of them, so that whatever ends the process loses none.
"""

import importlib
import json
import os
import sys
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
    """

    out: str
    work: str
    tiny: bool = False
    epochs: int | None = None
    fashion: str = ""

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
