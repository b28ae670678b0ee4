"""What a set of rows adds up to; sums can be taken apart and put together in any order."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Self

import numpy as np
from pydantic import BaseModel

from lance_pipeline.images.channels import ChannelSums
from lance_pipeline.images.fingerprint import Fingerprint


class Totals(BaseModel):
    """Rows per label, exact channel sums, and the fingerprint of (path, label, bytes)."""

    counts: dict[str, int] = {}
    channels: ChannelSums = ChannelSums()
    fingerprint: str = Fingerprint().hexdigest()

    @property
    def rows(self) -> int:
        """The number of rows."""
        return sum(self.counts.values())

    def plus(self, other: Self, sign: int = 1) -> "Totals":
        """These rows and the others, or these without the others where ``sign`` is -1."""
        counts = dict(self.counts)
        for label, count in other.counts.items():
            counts[label] = counts.get(label, 0) + sign * count
        return Totals(
            counts=counts,
            channels=self.channels.plus(other.channels, sign),
            fingerprint=Fingerprint(self.fingerprint).plus(Fingerprint(other.fingerprint), sign).hexdigest(),
        )


def totals_of(
    paths: Iterable[str],
    labels: Iterable[str],
    digests: Iterable[bytes],
    pixels: Iterable[int],
    sums: Sequence[Sequence[int]],
    square_sums: Sequence[Sequence[int]],
) -> Totals:
    """The totals of some rows, given column by column: SHA-256 of the bytes, pixels, and sums of three channels."""
    fingerprint = Fingerprint()
    labels = list(labels)
    for path, label, digest in zip(paths, labels, digests, strict=True):
        fingerprint.add(path, label, digest)
    # Far from the end of 64 bits: an image adds less than 2**44 to a sum of squares.
    (r, g, b), (rr, gg, bb) = (np.array(values, dtype=np.int64).sum(axis=0).tolist() for values in (sums, square_sums))
    channels = ChannelSums(pixels=sum(pixels), total=(r, g, b), squares=(rr, gg, bb))
    return Totals(counts=Counter(labels), channels=channels, fingerprint=fingerprint.hexdigest())
