"""The timings that measure the overhead."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.measure import Measurement
from benchmarks.results import Results, Spread, spread_of

# The parts of a whole run, in order; each lasts from the end of the one before it.
PARTS = ("start", "ingest", "training", "evaluation", "end")


@dataclass(frozen=True)
class Timed(Measurement):
    """One training, or one whole run.

    Attributes:
        images: the number of images trained on, over all epochs.
        seconds: for a training, from the start of its first epoch until all its work is done; for a whole run, from the
            start of its process to its end.
        parts: further measurements, in seconds, bytes or shares.
    """

    parts: Mapping[str, float] = field(default_factory=dict)


def timed_runs(results: Results, kind: str, name: str) -> Sequence[Timed]:
    """The runs of a contestant that did not fail."""
    return [run for run in results.runs.get(kind, {}).get(name, []) if isinstance(run, Timed) and not run.error]


def part(results: Results, kind: str, name: str, which: str) -> Spread | None:
    """The values of the given part in the runs that have it."""
    return spread_of(run.parts[which] for run in timed_runs(results, kind, name) if which in run.parts)


def longer(results: Results, kind: str, name: str, other: str, which: str | None = None) -> Spread | None:
    """The duration, or that of a part, as a multiple of that of ``other`` in the same round."""
    pairs = _pairs(results, kind, name, other)
    return spread_of(_value(one, which) / _value(two, which) for one, two in pairs)


def more(results: Results, kind: str, name: str, other: str, which: str | None = None) -> Spread | None:
    """The duration, or that of a part, minus that of ``other`` in the same round, in seconds."""
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
