"""What the Lance dataset of a split holds before an ingest, and the commit that changes it."""

from collections.abc import Iterator

import lance
import numpy as np
import pyarrow as pa
from lance.fragment import FragmentMetadata
from numpy.typing import NDArray

from lance_pipeline.errors import InputError
from lance_pipeline.imaging.decoding import DECODERS
from lance_pipeline.imaging.derived_columns import add_missing_columns, split_schema
from lance_pipeline.ingest.totals import Totals, totals_of
from lance_pipeline.storage.columns import positions
from lance_pipeline.storage.facts import Facts, read_facts
from lance_pipeline.storage.recovery import recover_table, set_aside_remains
from lance_pipeline.storage.row_addresses import take_addresses
from lance_pipeline.storage.row_digests import DESCRIBED, ROW_DIGEST, row_digests
from lance_pipeline.storage.schema import SPLIT_SCHEMA
from lance_pipeline.storage.table_errors import damaged_version, reading
from lance_pipeline.storage.tables import change_rows, find_table, open_table, replace_rows
from lance_pipeline.storage.transparency import EARLIER, Transparency
from lance_pipeline.storage.verification import DamagedRow, verify_rows

# Raised when the same files would make other rows than before: everything is then read again. A column that follows
# from the others needs no other version: see lance_pipeline.imaging.derived_columns.
INGEST_VERSION = "4"

_KNOWN = pa.schema(
    [*(SPLIT_SCHEMA.field(name) for name in ("path", "sha256", "pixel_digest")), pa.field("_rowaddr", pa.uint64())]
)
_TAKEN_ROWS = 1024


class StoredSplit:
    """A split's rows as they are stored; none where there is no dataset yet, or an outdated one.

    Args:
        split: the split.
        uri: its Lance dataset.
        transparency: what transparent pixels become in rows that are written; as they are stored when None.
        repair: whether to read all rows and to leave out those that are damaged, so that they are written again.

    Attributes:
        dataset: the version that this describes; None where rows are to be written from scratch.
        transparency: of rows that are written.
        blended_otherwise: whether the stored rows are of another transparency.
        rows: the columns ``path``, ``sha256``, ``pixel_digest`` and ``_rowaddr`` of its rows.
        damaged: the rows that were left out.

    Raises:
        InputError: the dataset cannot be opened, or is none of ours.
        DamagedError: its rows cannot be read; never with ``repair``.
    """

    def __init__(self, split: str, uri: str, *, transparency: Transparency | None = None, repair: bool = False) -> None:
        self.split, self.uri = split, uri
        found = recover_table(uri) if repair else find_table(uri)
        if found is None:
            set_aside_remains(uri)
        facts = {} if found is None else read_facts(found)
        if found is not None and "ingest_version" not in facts:
            raise InputError(
                f"{uri} holds a Lance dataset that was not made by an ingest. Choose another URI, or move it."
            )
        current = facts.get("ingest_version") == INGEST_VERSION
        if found is not None and current and add_missing_columns(found):
            found = open_table(uri)
        self._outdated = found
        self.dataset = found if current else None
        self.facts: Facts = {} if self.dataset is None else facts
        stored = facts.get("transparency", EARLIER)
        self.transparency: Transparency = transparency or stored
        self.blended_otherwise = self.dataset is not None and self.transparency != stored
        self.damaged: list[DamagedRow] = []
        self.rows = _KNOWN.empty_table()
        if self.dataset is None:
            return
        if repair:
            verification = verify_rows(self.dataset)
            self.damaged = verification.damaged
            self.rows = _taken(self.dataset, verification.intact)
        else:
            with reading(uri, self.dataset.version):
                rows = self.dataset.to_table(columns=_KNOWN.names[:-1], with_row_address=True)
            self.rows = rows.combine_chunks()

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
        now = self._kept_totals(kept).plus(totals)
        decoders = set(self.facts.get("decoders", [])) | ({DECODERS} if added else set())
        unchanged = self.dataset is not None and bool(kept.all()) and not added and not self.damaged
        facts |= {
            "split": self.split,
            "rows": now.rows,
            "counts": {label: now.counts.get(label, 0) for label in classes},
            "channels": now.channels.model_dump(mode="json"),
            "fingerprint": now.fingerprint,
            "digests": now.digests.model_dump(mode="json"),
            "decoders": sorted(decoders),
            "ingest_version": INGEST_VERSION,
            "transparency": self.transparency,
            # Where no image is transparent, another choice changes nothing.
            "blended_on": self.facts.get("blended_on", EARLIER) if unchanged else self.transparency,
        }
        if self.dataset is None:
            return replace_rows(self.uri, self._outdated, split_schema(), added, facts)
        if unchanged and facts == self.facts:
            return self.dataset
        return change_rows(self.dataset, self._left(kept), added, facts)

    def totals(self) -> Totals:
        """Of ``rows``, counted one by one."""
        return self._totals(np.ones(len(self.rows), dtype=bool))[0]

    def _kept_totals(self, kept: NDArray[np.bool_]) -> Totals:
        """Of the rows of ``kept``: what the facts say less the others.

        Counted row by row where another tool has added or removed rows, or where a row that leaves is damaged, as what
        it says of itself was never added.

        Raises:
            DamagedError: a row that stays is damaged.
        """
        if self.dataset is None:
            return Totals()
        if self.facts["rows"] == len(self.rows):
            gone, intact = self._totals(~kept)
            if intact:
                return Totals.model_validate(self.facts).plus(gone, -1)
        totals, intact = self._totals(kept)
        if not intact:
            raise damaged_version(self.uri, self.dataset.version, "rows are not what was ingested")
        return totals

    def _totals(self, wanted: NDArray[np.bool_]) -> tuple[Totals, bool]:
        """Of some of the rows, read a batch at a time in the order of ``rows``; and whether they are intact."""
        totals, start = Totals(), 0
        for batch in self._batches([*DESCRIBED, ROW_DIGEST]) if wanted.any() else ():
            mask = wanted[start : start + len(batch)]
            start += len(batch)
            if mask.any():
                rows = batch.filter(pa.array(mask))
                if (row_digests(rows) != rows[ROW_DIGEST].to_numpy()).any():
                    return totals, False
                totals = totals.plus(totals_of(rows))
        return totals, True

    def _batches(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """Some columns of the rows, in their order."""
        if self.dataset is None:
            return
        with reading(self.uri, self.dataset.version):
            if not self.damaged:
                yield from self.dataset.to_batches(columns=columns)
                return
            # A scan would meet what cannot be read.
            addresses = self.rows["_rowaddr"].to_numpy()
            for start in range(0, len(addresses), _TAKEN_ROWS):
                yield from take_addresses(self.dataset, addresses[start : start + _TAKEN_ROWS], columns).to_batches()

    def _left(self, kept: NDArray[np.bool_]) -> dict[int, NDArray[np.uint32]]:
        """For the id of each fragment that loses rows the physical offsets of those that it keeps.

        They are the two halves of a row's address.
        """
        broken = {row.fragment for row in self.damaged}
        addresses = self.rows["_rowaddr"].to_numpy()
        fragments, offsets = addresses >> np.uint64(32), (addresses & np.uint64(0xFFFFFFFF)).astype(np.uint32)
        return {int(number): offsets[kept & (fragments == number)] for number in {*fragments[~kept].tolist(), *broken}}


def _taken(dataset: lance.LanceDataset, addresses: NDArray[np.uint64]) -> pa.Table:
    """The columns of _KNOWN at these addresses."""
    names = _KNOWN.names[:-1]
    parts = [
        take_addresses(dataset, addresses[start : start + _TAKEN_ROWS], names)
        for start in range(0, len(addresses), _TAKEN_ROWS)
    ]
    known = pa.concat_tables(parts) if parts else _KNOWN.empty_table().select(names)
    return known.append_column(_KNOWN.field("_rowaddr"), pa.array(addresses)).combine_chunks()
