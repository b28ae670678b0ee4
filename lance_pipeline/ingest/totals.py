"""Totals of a set of rows, which can be added and subtracted in any order."""

from collections import Counter
from typing import Self

import numpy as np
import pyarrow as pa
from pydantic import BaseModel

from lance_pipeline.imaging.channels import ChannelSums
from lance_pipeline.storage.fingerprint import Fingerprint
from lance_pipeline.storage.row_digests import IMAGE_DIGEST, ROW_DIGEST, DigestSums, digest_sums

SUMMED = (
    "path", "label", "sha256", "width", "height", "channel_sum", "channel_square_sum", IMAGE_DIGEST, ROW_DIGEST,
)  # fmt: skip
"""The columns that totals are computed from."""


class Totals(BaseModel):
    """Rows per label, exact channel sums, the fingerprint of (path, label, bytes), and the sums of the digests."""

    counts: dict[str, int] = {}
    channels: ChannelSums = ChannelSums()
    fingerprint: str = Fingerprint().hexdigest()
    digests: DigestSums = DigestSums()

    @property
    def rows(self) -> int:
        """The number of rows."""
        return sum(self.counts.values())

    def plus(self, other: Self, sign: int = 1) -> "Totals":
        """The totals of both sets of rows; with ``sign`` -1, of these rows without the others."""
        counts = dict(self.counts)
        for label, count in other.counts.items():
            counts[label] = counts.get(label, 0) + sign * count
        return Totals(
            counts=counts,
            channels=self.channels.plus(other.channels, sign),
            fingerprint=Fingerprint(self.fingerprint).plus(Fingerprint(other.fingerprint), sign).hexdigest(),
            digests=self.digests.plus(other.digests, sign),
        )


def totals_of(rows: pa.RecordBatch) -> Totals:
    """The totals of rows with the columns ``SUMMED``."""
    labels, fingerprint = rows["label"].to_pylist(), Fingerprint()
    for path, label, digest in zip(rows["path"].to_pylist(), labels, rows["sha256"].to_pylist(), strict=True):
        fingerprint.add(path, label, digest)
    pixels = int((rows["width"].to_numpy().astype(np.int64) * rows["height"].to_numpy()).sum())
    # No overflow of 64 bits: an image adds less than 2**44 to a sum of squares.
    (r, g, b), (rr, gg, bb) = (
        rows[name].flatten().to_numpy().reshape(-1, 3).sum(axis=0).tolist()
        for name in ("channel_sum", "channel_square_sum")
    )
    return Totals(
        counts=Counter(labels),
        channels=ChannelSums(pixels=pixels, total=(r, g, b), squares=(rr, gg, bb)),
        fingerprint=fingerprint.hexdigest(),
        digests=digest_sums(rows),
    )
