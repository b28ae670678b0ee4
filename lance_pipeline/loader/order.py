"""The order of the rows in an epoch."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from lance_pipeline.storage.columns import Indices

# Clumps have enough neighbouring rows for fast reading; windows have few enough bytes to keep two in memory.
_CLUMP_ROWS = 64
_CLUMP_BYTES = 1 << 20
_WINDOW_CLUMPS = 64
_WINDOW_BYTES = 12 << 20
_LEAST_CLUMPS = 16
# Where neighbours share their class, clumps make the counts of a class vary more between batches than a full shuffle
# would. This is the largest increase of their variance, for batches of this many images: 10 % more standard deviation.
_MAX_INCREASE, _BATCH = 0.2, 256
# A correlation of the classes within clumps is a coincidence up to this many standard deviations.
_COINCIDENCE = 5


@dataclass(frozen=True)
class Order:
    """Rows in clumps of neighbours, the clumps shuffled, and their rows shuffled again within a window of many clumps.

    An ingest stores rows in the order of a hash of their path, so neighbours are a fair sample of all rows. Shuffling
    clumps is therefore nearly as good as shuffling rows, and far faster to read. The remaining difference: the rows of
    a clump always come in the same window. Other datasets may be stored class by class, and need :meth:`mixing`.

    Args:
        rows: the number of rows in the dataset.
        clump: the number of neighbouring rows in a clump.
        window: the number of clumps in a window.
        seeds: the seeds of the shuffle, which depends on nothing else; None gives the stored order.
    """

    rows: int
    clump: int
    window: int
    seeds: tuple[int, ...] | None

    @classmethod
    def of(cls, rows: int, mean_bytes: float, seeds: tuple[int, ...] | None) -> "Order":
        """The order of a dataset whose images have ``mean_bytes`` bytes on average."""
        clump = int(np.clip(_CLUMP_BYTES / max(mean_bytes, 1), 1, _CLUMP_ROWS))
        window = int(np.clip(_WINDOW_BYTES / max(mean_bytes * clump, 1), _LEAST_CLUMPS, _WINDOW_CLUMPS))
        return cls(rows, clump, window, seeds)

    def mixing(self, labels: Indices) -> "Order":
        """This order, with smaller and more clumps in each window if neighbouring rows often share their class.

        Args:
            labels: the class index of each row.
        """
        window_rows = self.clump * self.window
        if self.rows <= window_rows or not _is_clustered(labels, self.clump):
            return self
        clump = self.clump
        # The variance increases by the correlation within a clump, times the number of images in a batch that are from
        # the clump of one of them. (Kish's design effect; clumps of a single row are a full shuffle.)
        while clump > 1 and (
            _correlation(labels, clump) * (_BATCH - 1) * (clump - 1) / (window_rows - 1) > _MAX_INCREASE
        ):
            clump //= 2
        return replace(self, clump=clump, window=window_rows // clump)

    @cached_property
    def starts(self) -> Indices:
        """The position in the epoch at which each window starts, followed by the number of rows."""
        clumps = -(-self.rows // self.clump)
        starts = np.minimum(np.arange(-(-clumps // self.window) + 1) * self.window * self.clump, clumps * self.clump)
        if clumps:
            # The last clump of the dataset may be shorter; the shuffle can put it in any window.
            short = int(np.flatnonzero(self._clumps == clumps - 1)[0]) // self.window
            starts[short + 1 :] -= clumps * self.clump - self.rows
        return starts.astype(np.int64)

    def window_of(self, position: int) -> int:
        """The window of a position in the epoch."""
        return int(np.searchsorted(self.starts, position, side="right")) - 1

    def rows_in(self, window: int) -> Indices:
        """The rows of a window, in order."""
        clumps = self._clumps[window * self.window : (window + 1) * self.window]
        rows = (clumps[:, None] * self.clump + np.arange(self.clump)).ravel()
        rows = rows[rows < self.rows]
        return rows if self.seeds is None else np.random.default_rng((*self.seeds, window + 1)).permutation(rows)

    @cached_property
    def _clumps(self) -> Indices:
        clumps = np.arange(-(-self.rows // self.clump))
        return clumps if self.seeds is None else np.random.default_rng(self.seeds).permutation(clumps)


def _is_clustered(labels: Indices, clump: int) -> bool:
    """Whether the rows of a clump share their class more often than in random order."""
    if clump < 2 or (same := _share_of_same_pairs(np.bincount(labels), len(labels))) == 1:
        return False
    pairs = len(labels) // clump * clump * (clump - 1) / 2
    return _correlation(labels, clump) > _COINCIDENCE * (same / (1 - same) / pairs) ** 0.5


def _correlation(labels: Indices, clump: int) -> float:
    """The correlation of the classes of two rows of a clump: 0 in random order, 1 if each clump has one class."""
    clumps = np.sort(labels[: len(labels) // clump * clump].reshape(-1, clump).astype(np.int32), axis=1)
    begins = np.ones(clumps.shape, dtype=bool)
    begins[:, 1:] = clumps[:, 1:] != clumps[:, :-1]
    # The number of rows of each class in each clump.
    counts = np.diff(np.flatnonzero(begins), append=clumps.size)
    within, overall = _share_of_same_pairs(counts, clump), _share_of_same_pairs(np.bincount(labels), len(labels))
    return (within - overall) / (1 - overall)


def _share_of_same_pairs(counts: Indices, group: int) -> float:
    """The share of pairs of one class among the pairs within groups of this size, given the counts of the classes."""
    return float((counts * (counts - 1)).sum() / (counts.sum() * (group - 1)))
