"""Cutting one folder of classes into splits."""

import hashlib
from collections.abc import Iterable
from itertools import accumulate


def assign_splits(paths: Iterable[str], fractions: dict[str, float]) -> list[str]:
    """The split of each path, drawn by the path's hash.

    A pure function of the path and the fractions, so that added images move none of the others.
    As the hash knows nothing of the label, each class gets the fractions in expectation.
    """
    bounds = list(zip(accumulate(fractions.values()), fractions, strict=True))
    return [_split_at(_uniform(path) * sum(fractions.values()), bounds) for path in paths]


def _uniform(path: str) -> float:
    """A number in [0, 1) from the first 53 bits of the path's SHA-256."""
    return (int.from_bytes(hashlib.sha256(path.encode()).digest()[:8], "big") >> 11) / (1 << 53)


def _split_at(position: float, bounds: list[tuple[float, str]]) -> str:
    return next((split for bound, split in bounds if position < bound), bounds[-1][1])
