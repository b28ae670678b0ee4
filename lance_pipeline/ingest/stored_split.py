"""The Lance dataset of a split before an ingest, and the commit that changes it."""

import logging
from collections.abc import Iterator

import lance
import numpy as np
import pyarrow as pa
from lance.fragment import FragmentMetadata
from numpy.typing import NDArray

from lance_pipeline.errors import InputError
from lance_pipeline.imaging.decoding import DECODERS
from lance_pipeline.imaging.derived_columns import require_own_columns, split_schema
from lance_pipeline.ingest.totals import Totals, totals_of
from lance_pipeline.storage.columns import positions
from lance_pipeline.storage.facts import Facts, read_facts
from lance_pipeline.storage.foreign_columns import allow_nulls, require_columns
from lance_pipeline.storage.recovery import recover_table, set_aside_remains
from lance_pipeline.storage.row_addresses import take_addresses
from lance_pipeline.storage.row_digests import DESCRIBED, ROW_DIGEST, row_digests
from lance_pipeline.storage.schema import SPLIT_SCHEMA
from lance_pipeline.storage.table_errors import damaged_version, reading
from lance_pipeline.storage.tables import change_rows, find_table, replace_rows
from lance_pipeline.storage.transparency import EARLIER, Transparency
from lance_pipeline.storage.verification import DamagedRow, verify_rows

_log = logging.getLogger(__name__)
# Increment this when the same files would give different rows than before: all files are then read again. A column
# derived from the others does not need it: see lance_pipeline.imaging.derived_columns.
INGEST_VERSION = "4"

_KNOWN = pa.schema(
    [*(SPLIT_SCHEMA.field(name) for name in ("path", "sha256", "pixel_digest")), pa.field("_rowaddr", pa.uint64())]
)
_TAKEN_ROWS = 1024


class StoredSplit:
    """The stored rows of a split; none if there is no dataset yet, or an outdated one.

    Args:
        split: the split.
        uri: its Lance dataset.
        transparency: what transparent pixels become in new rows; None keeps the stored setting.
        repair: whether to verify all rows and leave out damaged ones, so that they are written again.

    Attributes:
        dataset: the current version; None if all rows are to be written from scratch.
        transparency: the setting for new rows.
        blended_otherwise: whether the stored rows have another setting.
        rows: the columns ``path``, ``sha256``, ``pixel_digest`` and ``_rowaddr`` of the rows.
        damaged: the rows that were left out.

    Raises:
        InputError: the dataset cannot be opened, or was not written by an ingest.
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
                f"{uri} is a Lance dataset that was not written by an ingest. Choose another URI, or move the dataset."
            )
        current = facts.get("ingest_version") == INGEST_VERSION
        self._outdated = found
        self.dataset = found if current else None
        self.facts: Facts = {} if self.dataset is None else facts
        stored = facts.get("transparency", EARLIER)
        self.transparency: Transparency = transparency or stored
        self.blended_otherwise = self.dataset is not None and self.transparency != stored
        self.damaged: list[DamagedRow] = []
        self.rows = _KNOWN.empty_table()
        if self.dataset is None:
            self._warn_of_lost_columns()
            return
        require_columns(self.dataset, SPLIT_SCHEMA)
        require_own_columns(self.dataset)
        if repair:
            verification = verify_rows(self.dataset)
            self.damaged = verification.damaged
            self.rows = _known_columns(self.dataset, verification.intact)
        else:
            with reading(uri, self.dataset.version):
                rows = self.dataset.to_table(columns=_KNOWN.names[:-1], with_row_address=True)
            self.rows = rows.combine_chunks()

    def accept_rows(self) -> None:
        """Prepare the dataset for rows that lack the columns of other tools.

        Raises:
            ConflictError: another process committed in between.
            InputError: the dataset cannot be written.
        """
        if self.dataset is not None:
            self.dataset = allow_nulls(self.dataset, self.schema.names)

    def _warn_of_lost_columns(self) -> None:
        """Warn that all rows are written from scratch, without columns that this release does not know."""
        if self._outdated is None:
            return
        if lost := [name for name in self._outdated.schema.names if name not in split_schema().names]:
            _log.warning(
                "All rows of %s are written from scratch, because another release wrote them. Only version %d has the "
                "columns %s.",
                self.uri,
                self._outdated.version,
                ", ".join(lost),
            )

    @property
    def schema(self) -> pa.Schema:
        """The columns that new rows are written with: those of the stored rows, or else all."""
        schema = split_schema()
        if self.dataset is None:
            return schema
        return pa.schema([schema.field(name) for name in self.dataset.schema.names if name in schema.names])

    @property
    def mode(self) -> str:
        """Lance's mode for writing its data files."""
        if self.dataset is not None:
            return "append"
        return "create" if self._outdated is None else "overwrite"

    @property
    def version(self) -> int:
        """The version of the dataset, even an outdated one; 0 if there is none."""
        # An empty dataset is false.
        found = self._outdated if self.dataset is None else self.dataset
        return 0 if found is None else found.version

    def find(self, paths: pa.Array) -> NDArray[np.int64]:
        """The position of each path among the rows; -1 if it is missing."""
        return positions(paths, self.rows["path"])

    def sha256(self, at: NDArray[np.int64]) -> pa.Array:
        """The byte digests of some rows; null for negative positions."""
        return self.rows["sha256"].take(pa.array(at, mask=at < 0)).combine_chunks()

    def pixel_digests(self, at: NDArray[np.int64]) -> pa.Array:
        """The pixel digests of some rows; null for negative positions."""
        return self.rows["pixel_digest"].take(pa.array(at, mask=at < 0)).combine_chunks()

    def commit(
        self,
        kept: NDArray[np.bool_],
        added: list[FragmentMetadata],
        totals: Totals,
        facts: Facts,
    ) -> lance.LanceDataset:
        """Commit the rows of ``kept`` and the fragments ``added``; makes no version if nothing changes.

        Args:
            kept: which of ``rows`` stay.
            added: fragments written for this dataset.
            totals: the totals of the rows in ``added``.
            facts: further facts to store.

        Returns:
            The dataset as it is now.

        Raises:
            ConflictError: another process committed in between.
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
            # Without transparent images, another setting changes no row.
            "blended_on": self.facts.get("blended_on", EARLIER) if unchanged else self.transparency,
        }
        if self.dataset is None:
            return replace_rows(self.uri, self._outdated, self.schema, added, facts)
        if unchanged and facts == self.facts:
            return self.dataset
        if added:
            # A column may have been added since an interrupted ingest wrote these rows.
            self.accept_rows()
        return change_rows(self.dataset, self._kept_offsets(kept), added, facts)

    def totals(self) -> Totals:
        """The totals of ``rows``, read row by row."""
        return self._totals(np.ones(len(self.rows), dtype=bool))[0]

    def _kept_totals(self, kept: NDArray[np.bool_]) -> Totals:
        """The totals of the kept rows: those in the facts minus those of the removed rows.

        They are read row by row if another tool has added or removed rows, or if a removed row is damaged, because
        its values are not those that the facts include.

        Raises:
            DamagedError: a kept row is damaged.
        """
        if self.dataset is None:
            return Totals()
        if self.facts["rows"] == len(self.rows):
            removed, intact = self._totals(~kept)
            if intact:
                return Totals.model_validate(self.facts).plus(removed, -1)
        totals, intact = self._totals(kept)
        if not intact:
            raise damaged_version(self.uri, self.dataset.version, "rows are not what was ingested")
        return totals

    def _totals(self, wanted: NDArray[np.bool_]) -> tuple[Totals, bool]:
        """The totals of some rows, read in batches in the order of ``rows``, and whether the rows are intact."""
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
        """Some columns of the rows, in order."""
        if self.dataset is None:
            return
        with reading(self.uri, self.dataset.version):
            if not self.damaged:
                yield from self.dataset.to_batches(columns=columns)
                return
            # A scan would hit the unreadable rows.
            addresses = self.rows["_rowaddr"].to_numpy()
            for start in range(0, len(addresses), _TAKEN_ROWS):
                yield from take_addresses(self.dataset, addresses[start : start + _TAKEN_ROWS], columns).to_batches()

    def _kept_offsets(self, kept: NDArray[np.bool_]) -> dict[int, NDArray[np.uint32]]:
        """For each fragment that loses rows, by its id, the physical offsets of the rows that it keeps.

        A row's address consists of the fragment id and the offset, 32 bits each.
        """
        broken = {row.fragment for row in self.damaged}
        addresses = self.rows["_rowaddr"].to_numpy()
        fragments, offsets = addresses >> np.uint64(32), (addresses & np.uint64(0xFFFFFFFF)).astype(np.uint32)
        return {int(number): offsets[kept & (fragments == number)] for number in {*fragments[~kept].tolist(), *broken}}


def _known_columns(dataset: lance.LanceDataset, addresses: NDArray[np.uint64]) -> pa.Table:
    """The columns of _KNOWN at these addresses."""
    names = _KNOWN.names[:-1]
    parts = [
        take_addresses(dataset, addresses[start : start + _TAKEN_ROWS], names)
        for start in range(0, len(addresses), _TAKEN_ROWS)
    ]
    known = pa.concat_tables(parts) if parts else _KNOWN.empty_table().select(names)
    return known.append_column(_KNOWN.field("_rowaddr"), pa.array(addresses)).combine_chunks()
