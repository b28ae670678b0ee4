"""What the Lance dataset of a split holds before an ingest, and the commit that changes it."""

import lance
import numpy as np
import pyarrow as pa
from lance.fragment import FragmentMetadata
from numpy.typing import NDArray

from lance_pipeline.errors import InputError
from lance_pipeline.images.columns import positions
from lance_pipeline.images.decoding import DECODERS
from lance_pipeline.images.ingestion.totals import Totals, totals_of
from lance_pipeline.images.schema import SPLIT_SCHEMA
from lance_pipeline.images.table import Facts, change_rows, find_table, read_facts, replace_rows

# Raised when the same files would make other rows than before: everything is then read again.
INGEST_VERSION = "3"

_KNOWN = ["path", "sha256", "pixel_digest"]
_MEASURED = ["path", "label", "sha256", "width", "height", "channel_sum", "channel_square_sum"]


class StoredSplit:
    """A split's rows as they are stored; none where there is no dataset yet, or an outdated one.

    Args:
        split: the split.
        uri: its Lance dataset.

    Attributes:
        dataset: the version that this describes; None where rows are to be written from scratch.
        rows: the columns ``path``, ``sha256``, ``pixel_digest`` and ``_rowaddr`` of its rows.

    Raises:
        InputError: the dataset cannot be opened, or is none of ours.
    """

    def __init__(self, split: str, uri: str) -> None:
        self.split, self.uri = split, uri
        found = find_table(uri)
        facts = {} if found is None else read_facts(found)
        if found is not None and "ingest_version" not in facts:
            raise InputError(
                f"{uri} holds a Lance dataset that was not made by an ingest. Choose another URI, or move it."
            )
        self._outdated = found
        self.dataset = found if facts.get("ingest_version") == INGEST_VERSION else None
        self.facts: Facts = {} if self.dataset is None else facts
        if self.dataset is not None:
            self.rows = self.dataset.to_table(columns=_KNOWN, with_row_address=True).combine_chunks()
        else:
            empty = pa.schema([*(SPLIT_SCHEMA.field(name) for name in _KNOWN), pa.field("_rowaddr", pa.uint64())])
            self.rows = empty.empty_table()

    @property
    def mode(self) -> str:
        """How data files are written for it, as Lance calls it."""
        if self.dataset is not None:
            return "append"
        return "create" if self._outdated is None else "overwrite"

    def find(self, paths: pa.Array) -> NDArray[np.int64]:
        """The position of each path among the rows, -1 where it is not."""
        return positions(paths, self.rows["path"])

    def sha256(self, at: NDArray[np.int64]) -> pa.Array:
        """The digests of the bytes of some rows, null where the position is negative."""
        return self.rows["sha256"].take(pa.array(at, mask=at < 0)).combine_chunks()

    def pixel_digests(self, at: NDArray[np.int64]) -> pa.Array:
        """The digests of the pixels of some rows, null where the position is negative."""
        return self.rows["pixel_digest"].take(pa.array(at, mask=at < 0)).combine_chunks()

    def commit(
        self,
        kept: NDArray[np.bool_],
        added: list[FragmentMetadata],
        totals: Totals,
        facts: Facts,
    ) -> lance.LanceDataset:
        """The dataset with the rows of ``kept`` and the fragments ``added``; as it is if nothing changes.

        Args:
            kept: which of ``rows`` stay.
            added: fragments written for this dataset.
            totals: of the rows in ``added``.
            facts: what else to note.

        Raises:
            ConflictError: somebody else committed in between.
            InputError: the dataset cannot be written.
        """
        classes: list[str] = facts["classes"]
        now = self.totals().plus(self._totals(~kept), -1).plus(totals)
        decoders = set(self.facts.get("decoders", [])) | ({DECODERS} if added else set())
        facts |= {
            "split": self.split,
            "rows": now.rows,
            "counts": {label: now.counts.get(label, 0) for label in classes},
            "channels": now.channels.model_dump(mode="json"),
            "fingerprint": now.fingerprint,
            "decoders": sorted(decoders),
            "ingest_version": INGEST_VERSION,
        }
        if self.dataset is None:
            return replace_rows(self.uri, self._outdated, SPLIT_SCHEMA, added, facts)
        if kept.all() and not added and facts == self.facts:
            return self.dataset
        return change_rows(self.dataset, self._left(kept), added, facts)

    def totals(self) -> Totals:
        """Of all rows, as the dataset's facts tell; counted again where another tool has added or removed rows."""
        if self.facts.get("rows", 0) != len(self.rows):
            return self._totals(np.ones(len(self.rows), dtype=bool))
        if not self.facts:
            return Totals()
        return Totals(
            counts=self.facts["counts"], channels=self.facts["channels"], fingerprint=self.facts["fingerprint"]
        )

    def _totals(self, gone: NDArray[np.bool_]) -> Totals:
        """Of some of the rows, read a batch at a time in the order of ``rows``."""
        if self.dataset is None or not gone.any():
            return Totals()
        totals, start = Totals(), 0
        for batch in self.dataset.to_batches(columns=_MEASURED):
            mask = gone[start : start + len(batch)]
            start += len(batch)
            if mask.any():
                path, label, digest, width, height, *sums = (
                    column.to_pylist() for column in batch.filter(pa.array(mask)).columns
                )
                pixels = (w * h for w, h in zip(width, height, strict=True))
                totals = totals.plus(totals_of(path, label, digest, pixels, *sums))
        return totals

    def _left(self, kept: NDArray[np.bool_]) -> dict[int, NDArray[np.uint32]]:
        """For the id of each fragment that loses rows the physical offsets of those that it keeps.

        They are the two halves of a row's address.
        """
        addresses = self.rows["_rowaddr"].to_numpy()
        fragments, offsets = addresses >> np.uint64(32), (addresses & np.uint64(0xFFFFFFFF)).astype(np.uint32)
        return {int(number): offsets[kept & (fragments == number)] for number in np.unique(fragments[~kept])}
