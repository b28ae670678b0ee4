"""What the overhead is measured by."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.measure import Measurement
from benchmarks.results import Results, Spread, spread_of

# The time from which all parts of a whole run count; it lasts longer than the one before it.
PARTS = ("start", "ingest", "training", "evaluation", "end")


@dataclass(frozen=True)
class Timed(Measurement):
    """One training, or one whole run.

    Attributes:
        images: that it learned from, each as often as it was seen.
        seconds: of a training from the beginning of its first epoch until nothing is left to be done for it, of a whole
            run from the start of its process to its end.
        parts: what else is known, in seconds, bytes or shares.
    """

    parts: Mapping[str, float] = field(default_factory=dict)


def timed_runs(results: Results, kind: str, name: str) -> Sequence[Timed]:
    """The runs of a contestant that did not fail."""
    return [run for run in results.runs.get(kind, {}).get(name, []) if isinstance(run, Timed) and not run.error]


def part(results: Results, kind: str, name: str, which: str) -> Spread | None:
    """What the runs know under that name."""
    return spread_of(run.parts[which] for run in timed_runs(results, kind, name) if which in run.parts)


def longer(results: Results, kind: str, name: str, other: str, which: str | None = None) -> Spread | None:
    """How many times as long as ``other`` it takes in the same round, or one of its parts does."""
    pairs = _pairs(results, kind, name, other)
    return spread_of(_value(one, which) / _value(two, which) for one, two in pairs)


def more(results: Results, kind: str, name: str, other: str, which: str | None = None) -> Spread | None:
    """How many seconds more than ``other`` it takes in the same round, or one of its parts does."""
    pairs = _pairs(results, kind, name, other)
    return spread_of(_value(one, which) - _value(two, which) for one, two in pairs)


def _pairs(results: Results, kind: str, name: str, other: str) -> list[tuple[Timed, Timed]]:
    rounds = zip(results.runs.get(kind, {}).get(name, []), results.runs.get(kind, {}).get(other, []), strict=False)
    return [
        (one, two)
        for one, two in rounds
        if isinstance(one, Timed) and isinstance(two, Timed) and not one.error and not two.error
    ]


def _value(run: Timed, which: str | None) -> float:
    return run.seconds if which is None else run.parts[which]
