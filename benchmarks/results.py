"""The measurements of a benchmark run, and the figures derived from them."""

import dataclasses
import datetime as dt
import json
import os
import platform
import shlex
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from benchmarks.environment import pinned_versions
from benchmarks.measure import Measurement

PEERS = {
    "article": "the article's way",
    "datasets": "Hugging Face datasets",
    "webdataset": "WebDataset",
    "mosaicml": "MosaicML Streaming",
    "litdata": "LitData",
}
BOUNDS = {"read": "reading the files", "decode": "decoding from memory"}
AGAIN = {
    "scratch": "nothing there yet",
    "changed": "1 % changed",
    "unchanged": "nothing changed",
    "list": "*bound: listing the files*",
}
OWN_PACKAGES = ("pylance", "pyarrow", "numpy", "pillow", "opencv-python-headless", "simplejpeg", "xxhash")
PEER_PACKAGES = ("datasets", "webdataset", "mosaicml-streaming", "litdata")


@dataclass(frozen=True)
class Spread:
    """The median, minimum and maximum of some numbers."""

    median: float
    low: float
    high: float


@dataclass
class Results:
    """All measurements of a benchmark run.

    Attributes:
        command: the command line.
        date: the day, as YYYY-MM-DD.
        machine: the machine that it ran on, as titles and texts.
        counts: images per kind.
        runs: by kind and contestant, a measurement for each round.
        memory: our ingest of the PNG, and of ten times as many.
    """

    command: str
    date: str
    machine: dict[str, str]
    counts: dict[str, int]
    runs: dict[str, Mapping[str, Sequence[Measurement]]] = field(default_factory=dict)
    memory: list[Measurement] = field(default_factory=list)

    @classmethod
    def begun(
        cls,
        name: str,
        counts: dict[str, int],
        own: tuple[str, ...] = OWN_PACKAGES,
        peers: tuple[str, ...] = PEER_PACKAGES,
    ) -> "Results":
        """Empty results for the given benchmark, started now on this machine."""
        return cls(typed(name), today(), _describe_machine(own, peers), counts)

    def rate(self, kind: str, name: str) -> Spread | None:
        """Images per second over the rounds that did not fail."""
        return spread_of(run.images / run.seconds for run in self._runs(kind, name) if not run.error)

    def numbers(self, kind: str, name: str, what: str) -> Spread | None:
        """An attribute of the measurements, over the rounds that did not fail and have it."""
        found = [getattr(run, what) for run in self._runs(kind, name) if not run.error]
        return spread_of(number for number in found if number is not None)

    def seconds(self, kind: str, name: str) -> Spread | None:
        """Seconds over the rounds that did not fail."""
        return spread_of(run.seconds for run in self._runs(kind, name) if not run.error)

    def ratio(self, kind: str, name: str, other: str) -> Spread | None:
        """The rate of ``name`` as a multiple of the rate of ``other``, taken within each round."""
        rounds = zip(self._runs(kind, name), self._runs(kind, other), strict=False)
        return spread_of(
            (one.images / one.seconds) / (two.images / two.seconds)
            for one, two in rounds
            if not one.error and not two.error
        )

    def peak(self, kind: str, name: str) -> float | None:
        """The peak resident memory of all rounds, in bytes."""
        return max((run.peak for run in self._runs(kind, name) if not run.error), default=None)

    def error(self, kind: str, name: str) -> str:
        """Why and how many rounds failed; empty if none did."""
        errors = [run.error for run in self._runs(kind, name) if run.error]
        return f"failed in {len(errors)} of {len(self._runs(kind, name))} rounds: {errors[-1]}" if errors else ""

    def save(self, path: str) -> None:
        """Write everything as JSON."""
        with open(path, "w") as file:
            json.dump(dataclasses.asdict(self), file, indent=1)

    @classmethod
    def load(cls, path: str, of: type[Measurement] = Measurement) -> "Results":
        """Load what ``save`` wrote, with the runs as objects of the class ``of``."""
        with open(path) as file:
            raw: dict[str, Any] = json.load(file)
        memory = [Measurement(**run) for run in raw.pop("memory")]
        runs: dict[str, Mapping[str, Sequence[Measurement]]] = {
            kind: {name: [of(**run) for run in rounds] for name, rounds in names.items()}
            for kind, names in raw.pop("runs").items()
        }
        return cls(**raw, runs=runs, memory=memory)

    def _runs(self, kind: str, name: str) -> Sequence[Measurement]:
        return self.runs.get(kind, {}).get(name, [])


def typed(name: str) -> str:
    """The command line that started the given benchmark."""
    return shlex.join(["python", "-m", f"benchmarks.{name}", *sys.argv[1:]])


def today() -> str:
    """The day, as YYYY-MM-DD."""
    return dt.datetime.now(tz=dt.UTC).date().isoformat()


def _describe_machine(own: tuple[str, ...], peers: tuple[str, ...]) -> dict[str, str]:
    """Processor, memory and versions."""
    with open("/proc/cpuinfo") as file:
        models = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    pins = pinned_versions()
    described = {
        "Processor": f"{models[0] if models else platform.machine()}, {os.cpu_count()} cores",
        "Memory": f"{memory:.0f} GiB",
        "Python": platform.python_version(),
        "Ours": ", ".join(f"{name} {version(name)}" for name in own),
    }
    return described | ({"Peers": ", ".join(f"{name} {pins[name]}" for name in peers)} if peers else {})


def spread_of(values: Iterable[float]) -> Spread | None:
    """The spread of some numbers; None if there are none."""
    numbers = sorted(values)
    return Spread(statistics.median(numbers), numbers[0], numbers[-1]) if numbers else None
