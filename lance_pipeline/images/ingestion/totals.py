"""What a set of rows adds up to; sums can be taken apart and put together in any order."""

from collections.abc import Iterable
from typing import Self

from pydantic import BaseModel

from lance_pipeline.images.channels import ChannelSums, IntTriple
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


Measured = tuple[str, str, bytes, int, IntTriple, IntTriple]
"""A row's path, label, SHA-256, number of pixels, and channel sums and square sums."""


def totals_of(rows: Iterable[Measured]) -> Totals:
    """The totals of these rows."""
    counts: dict[str, int] = {}
    fingerprint = Fingerprint()
    numbers = [0] * 7
    for path, label, sha256, pixels, sums, squares in rows:
        counts[label] = counts.get(label, 0) + 1
        fingerprint.add(path, label, sha256)
        for position, value in enumerate((pixels, *sums, *squares)):
            numbers[position] += value
    pixels, r, g, b, rr, gg, bb = numbers
    channels = ChannelSums(pixels=pixels, total=(r, g, b), squares=(rr, gg, bb))
    return Totals(counts=counts, channels=channels, fingerprint=fingerprint.hexdigest())
