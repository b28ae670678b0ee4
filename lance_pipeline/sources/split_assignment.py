"""Assignment of images to splits: by folder, or randomly by a hash of their pixels."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from lance_pipeline.storage.columns import slices_of

UNKNOWN = -1
"""The code of an image whose pixels are not yet known."""


class Assignment(Protocol):
    """Assigns images to splits."""

    splits: tuple[str, ...]
    """The splits; a split's code is its position here."""

    def code(self, digest: bytes) -> int:
        """The split code of one image, by its pixel digest; for a rejected file any digest."""
        ...

    def codes(self, digests: pa.Array) -> NDArray[np.int8]:
        """The split codes of many images, int8; ``UNKNOWN`` for null digests."""
        ...


class FixedSplit:
    """Assigns all images to one split."""

    def __init__(self, split: str) -> None:
        self.splits = (split,)

    def code(self, digest: bytes) -> int:
        """The code of that split."""
        del digest
        return 0

    def codes(self, digests: pa.Array) -> NDArray[np.int8]:
        """The code of that split for all, even if the pixels are unknown."""
        return np.zeros(len(digests), np.int8)


class ByFractions:
    """Assigns images randomly, by a hash of the salt and the pixel digest.

    The assignment depends on nothing else: copies of an image are in the same split under any name, adding
    images does not move others, and because the hash does not depend on the label, each class is split by
    the fractions in expectation.

    Args:
        fractions: the share of each split; they add up to 1.
        salt: a different salt gives an independent assignment.
    """

    def __init__(self, fractions: Mapping[str, float], salt: str = "") -> None:
        self.splits = tuple(fractions)
        self._salt = salt.encode()
        bounds = np.cumsum(list(fractions.values()))
        self._bounds = bounds[:-1] / bounds[-1]

    def code(self, digest: bytes) -> int:
        """The split whose interval of [0, 1) contains the first 53 bits of the hash, as a fraction."""
        position = (xxhash.xxh3_64_intdigest(self._salt + b"\0" + digest) >> 11) / (1 << 53)
        return int(np.searchsorted(self._bounds, position, side="right"))

    def codes(self, digests: pa.Array) -> NDArray[np.int8]:
        """The split codes of many images, int8."""
        return np.concatenate([np.empty(0, np.int8), *map(self._codes, slices_of(digests))])

    def _codes(self, digests: list[bytes | None]) -> NDArray[np.int8]:
        prefix = self._salt + b"\0"
        hashes = [None if digest is None else xxhash.xxh3_64_intdigest(prefix + digest) for digest in digests]
        known = np.array([value is not None for value in hashes], dtype=bool)
        values = np.array([value or 0 for value in hashes], dtype=np.uint64)
        positions = (values >> np.uint64(11)) / (1 << 53)
        found = np.searchsorted(self._bounds, positions, side="right").astype(np.int8)
        return np.where(known, found, np.int8(UNKNOWN))
