"""Digests of cached pixels, which detect damage to the cache's files.

XXH3-64 detects accidental damage, at some 20 GB/s. Both classes check rows from other processes once, when they are
first needed, and treat damaged rows as missing, so that they are decoded again.
"""

import logging
import threading
from collections.abc import Callable

import numpy as np
import xxhash
from numpy.typing import NDArray

from lance_pipeline.loader.augmentation import Pixels
from lance_pipeline.storage.columns import Indices, Mask
from lance_pipeline.storage.whole_files import write_whole

_log = logging.getLogger(__name__)
BLOCK_ROWS = 64
"""Rows per block: a clump of an epoch's order, which is read together."""
PixelsOf = Callable[[int, int], Pixels]
"""Returns the pixels of the rows from one to before another, as contiguous bytes."""
_UNCHECKED, _INTACT, _DAMAGED = 0, 1, 2


class RowDigests:
    """The digests of a cache that is being filled: one for each row.

    Args:
        digests: shared with other processes, uint64 (rows,); 0 if a row is missing.
        pixels_of: returns pixels of the cache.
    """

    def __init__(self, digests: NDArray[np.uint64], pixels_of: PixelsOf) -> None:
        self._digests, self._pixels_of = digests, pixels_of
        self._checked = np.zeros(len(digests), dtype=bool)

    def has(self, rows: Indices) -> Mask:
        """Which of these rows are cached and intact."""
        there = self._digests[rows] != 0
        for row in rows[there & ~self._checked[rows]].tolist():
            if self._digest(row) == self._digests[row]:
                self._checked[row] = True
            else:
                self._digests[row] = 0
        return there & self._checked[rows]

    def record(self, row: int) -> None:
        """Store the digest of a row whose pixels have been written."""
        self._checked[row] = True
        self._digests[row] = self._digest(row)

    def all(self) -> bool:
        """Whether all rows are cached; those that another process has written are checked."""
        return bool((self._digests != 0).all()) and bool(self.has(np.arange(len(self._digests))).all())

    def _digest(self, row: int) -> int:
        return xxhash.xxh3_64_intdigest(self._pixels_of(row, row + 1).data) or 1


class BlockDigests:
    """The digests of a complete cache: one for each block of ``BLOCK_ROWS`` rows.

    Args:
        rows: the number of rows in the cache.
        pixels_of: returns pixels of the cache.
        digests: the digests of the blocks, uint64; None computes them.
    """

    def __init__(self, rows: int, pixels_of: PixelsOf, digests: NDArray[np.uint64] | None = None) -> None:
        self._rows, self._pixels_of = rows, pixels_of
        blocks = -(-rows // BLOCK_ROWS)
        if digests is None:
            self.digests = np.fromiter(map(self._digest, range(blocks)), np.uint64, blocks)
            self._state = np.full(blocks, _INTACT, np.uint8)
        else:
            self.digests, self._state = digests, np.full(blocks, _UNCHECKED, np.uint8)
        self._unchecked, self._ahead = digests is not None, False
        # For each damaged block, the rows that have been written again.
        self._redone: dict[int, set[int]] = {}

    @classmethod
    def load(cls, path: str, rows: int, pixels_of: PixelsOf) -> "BlockDigests | None":
        """Load what :meth:`save` wrote; None if the file is missing or damaged."""
        try:
            with open(path, "rb") as file:
                raw = file.read()
        except FileNotFoundError:
            return None
        values, seal = raw[:-8], raw[-8:]
        if len(values) != -(-rows // BLOCK_ROWS) * 8 or xxhash.xxh3_64_digest(values) != seal:
            _log.warning("%s is damaged; the images are decoded again", path)
            return None
        return cls(rows, pixels_of, np.frombuffer(values, np.uint64))

    def save(self, path: str) -> None:
        """Write the digests, followed by a digest of them, whole or not at all.

        Raises:
            OSError: the file cannot be written.
        """
        write_whole(path, self.digests.tobytes() + xxhash.xxh3_64_digest(self.digests.data), shared=True)

    def has(self, rows: Indices) -> Mask:
        """Which of these rows are intact."""
        if self._unchecked:
            self._check_ahead()
            blocks = np.unique(rows // BLOCK_ROWS)
            for block in blocks[self._state[blocks] == _UNCHECKED].tolist():
                self._check(block)
            self._unchecked = bool((self._state == _UNCHECKED).any())
        there = np.ones(len(rows), dtype=bool)
        if self._redone:
            damaged = self._state[rows // BLOCK_ROWS] == _DAMAGED
            there[damaged] = [row in self._redone[row // BLOCK_ROWS] for row in rows[damaged].tolist()]
        return there

    def record(self, row: int) -> None:
        """Note that a row of a damaged block has been written again; after its last row, the block is checked again."""
        block = row // BLOCK_ROWS
        if (redone := self._redone.get(block)) is not None:
            redone.add(row)
            start, stop = self._bounds(block)
            if len(redone) == stop - start and self._digest(block) == self.digests[block]:
                self._state[block] = _INTACT

    def _check_ahead(self) -> None:
        """Check all blocks in a thread, once: hashing releases the GIL, and batches from a cache need only one core."""
        if not self._ahead:
            self._ahead = True
            threading.Thread(target=self._check_all, name="check-cache", daemon=True).start()

    def _check_all(self) -> None:
        for block in range(len(self._state)):
            if self._state[block] == _UNCHECKED:
                self._check(block)

    def _check(self, block: int) -> None:
        if self._digest(block) == self.digests[block]:
            self._state[block] = _INTACT
            return
        start, stop = self._bounds(block)
        _log.warning("rows %d to %d of the image cache are damaged; they are decoded again", start, stop - 1)
        self._redone.setdefault(block, set())
        self._state[block] = _DAMAGED

    def _bounds(self, block: int) -> tuple[int, int]:
        return block * BLOCK_ROWS, min((block + 1) * BLOCK_ROWS, self._rows)

    def _digest(self, block: int) -> int:
        return xxhash.xxh3_64_intdigest(self._pixels_of(*self._bounds(block)).data)
