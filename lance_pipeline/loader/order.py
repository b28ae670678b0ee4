"""The order of the rows in an epoch."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lance_pipeline.storage.columns import Indices

# Clumps have enough neighbouring rows for fast reading; windows have few enough bytes to keep two in memory.
_CLUMP_ROWS = 64
_CLUMP_BYTES = 1 << 20
_WINDOW_CLUMPS = 64
_WINDOW_BYTES = 12 << 20
_LEAST_CLUMPS = 16


@dataclass(frozen=True)
class Order:
    """Rows in clumps of neighbours, the clumps shuffled, and their rows shuffled again within a window of many clumps.

    An ingest stores rows in the order of a hash of their path, so neighbours are a fair sample of all rows. Shuffling
    clumps is therefore nearly as good as shuffling rows, and far faster to read. The remaining difference: the rows of
    a clump always come in the same window.

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
