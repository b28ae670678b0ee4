"""Verification of every stored row of a split against its digests."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import lance
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lance_pipeline.errors import InputError
from lance_pipeline.storage.facts import read_facts
from lance_pipeline.storage.foreign_columns import require_columns
from lance_pipeline.storage.row_addresses import take_addresses
from lance_pipeline.storage.row_digests import (
    IMAGE_DIGEST,
    ROW_DIGEST,
    DigestSums,
    digest_sums,
    image_digests,
    row_digests,
)
from lance_pipeline.storage.schema import SPLIT_SCHEMA
from lance_pipeline.storage.table_errors import brief, is_unreadable

Addresses = NDArray[np.uint64]
# Rows in memory at a time, and rows that are probed to decide whether a data file is readable at all.
_ROWS, _PROBES = 256, 8


class DamagedRow(NamedTuple):
    """A row that is unreadable or has changed since it was ingested; path and label are empty if unknown."""

    fragment: int
    path: str
    label: str
    detail: str


class Verification(NamedTuple):
    """The result of verifying one version of a split.

    Attributes:
        uri, version: the version.
        intact: the addresses of the intact rows, uint64.
        damaged: all other rows of the version.
        note: any other problem; empty if there is none.
    """

    uri: str
    version: int
    intact: Addresses
    damaged: list[DamagedRow]
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether no problem was found."""
        return not self.damaged and not self.note


class _VerifiedRows(NamedTuple):
    """The result for some rows; ``intact`` are the addresses of the intact ones."""

    intact: Addresses
    damaged: list[DamagedRow]
    sums: DigestSums


def verify_rows(
    dataset: lance.LanceDataset, progress: Callable[[int, int], None] = lambda done, total: None
) -> Verification:
    """Verify all rows of a version against their digests, and the digests against their sums in the facts.

    Memory holds a few hundred rows at a time.

    Args:
        dataset: a version that an ingest wrote.
        progress: called from time to time with (rows read, total rows).

    Raises:
        InputError: the rows have no digests, or another tool has changed columns of an ingest.
        DamagedError: the version's facts are damaged.
    """
    facts = read_facts(dataset)
    if "digests" not in facts:
        raise InputError(
            f"{dataset.uri} has no row digests to verify, because another tool or an earlier release wrote it. "
            "Materialize the asset that writes it to add them."
        )
    require_columns(dataset, SPLIT_SCHEMA)
    fragments = dataset.get_fragments()
    total = sum(fragment.physical_rows - fragment.metadata.num_deletions for fragment in fragments)
    intact: list[Addresses] = [np.empty(0, np.uint64)]
    damaged: list[DamagedRow] = []
    sums, done = DigestSums(), 0
    for fragment in fragments:
        for found in _verify_fragment(dataset, fragment):
            intact.append(found.intact)
            damaged += found.damaged
            sums = sums.plus(found.sums)
            done += len(found.intact) + len(found.damaged)
            progress(done, total)
    rows, note = sum(map(len, intact)), ""
    if not damaged and facts["rows"] != rows:
        note = f"it has {rows} rows, but had {facts['rows']} when it was ingested: another tool has changed it"
    elif not damaged and sums != DigestSums.model_validate(facts["digests"]):
        note = "rows are missing, duplicated or different from those that were ingested"
    return Verification(dataset.uri, dataset.version, np.concatenate(intact), damaged, note)


def _verify_fragment(dataset: lance.LanceDataset, fragment: lance.LanceFragment) -> Iterator[_VerifiedRows]:
    number, count = fragment.fragment_id, fragment.physical_rows - fragment.metadata.num_deletions
    try:
        scanner = dataset.scanner(columns=[], with_row_address=True, fragments=[fragment])
        addresses = scanner.to_table()["_rowaddr"].to_numpy()
        _require_any(dataset, addresses)
    except BaseException as error:
        if not is_unreadable(error):
            raise
        yield _unreadable(number, count, error)
        return
    for start in range(0, len(addresses), _ROWS):
        yield _verify(dataset, addresses[start : start + _ROWS])


def _require_any(dataset: lance.LanceDataset, addresses: Addresses) -> None:
    """Probe a few rows of a fragment, and raise the last error if none can be read.

    If a data file is missing or truncated, no row is readable, and trying each of them would take long.
    """
    samples = addresses[np.unique(np.linspace(0, len(addresses) - 1, _PROBES).astype(int))] if len(addresses) else []
    failure: BaseException | None = None
    for address in samples:
        try:
            _take(dataset, np.array([address]))
        except BaseException as error:
            if not is_unreadable(error):
                raise
            failure = error
        else:
            return
    if failure is not None:
        raise failure


def _unreadable(fragment: int, count: int, error: BaseException) -> _VerifiedRows:
    return _VerifiedRows(
        np.empty(0, np.uint64), [DamagedRow(fragment, "", "", f"cannot be read: {brief(error)}")] * count, DigestSums()
    )


def intact_rows(dataset: lance.LanceDataset, addresses: Addresses) -> Iterator[pa.RecordBatch]:
    """The intact rows among these addresses, some at a time, with all columns of a split."""
    for start in range(0, len(addresses), _ROWS):
        good = _verify(dataset, addresses[start : start + _ROWS]).intact
        if len(good):
            yield from take_addresses(dataset, good, SPLIT_SCHEMA.names).combine_chunks().to_batches()


def _verify(dataset: lance.LanceDataset, addresses: Addresses) -> _VerifiedRows:
    """Verify rows of one fragment, bisecting where they cannot be read together."""
    try:
        rows = _take(dataset, addresses)
    except BaseException as error:
        if not is_unreadable(error):
            raise
        if len(addresses) == 1:
            return _unreadable(int(addresses[0] >> np.uint64(32)), 1, error)
        half = len(addresses) // 2
        one, other = _verify(dataset, addresses[:half]), _verify(dataset, addresses[half:])
        return _VerifiedRows(
            np.concatenate([one.intact, other.intact]), one.damaged + other.damaged, one.sums.plus(other.sums)
        )
    described = row_digests(rows) == rows[ROW_DIGEST].to_numpy()
    seen = image_digests(value.as_buffer() for value in rows["image"]) == rows[IMAGE_DIGEST].to_numpy()
    good = described & seen
    damaged = [
        DamagedRow(int(addresses[row] >> np.uint64(32)), *_names(rows, row, known=bool(described[row])))
        for row in np.flatnonzero(~good).tolist()
    ]
    return _VerifiedRows(addresses[good], damaged, digest_sums(rows.filter(pa.array(good))))


def _names(rows: pa.RecordBatch, row: int, *, known: bool) -> tuple[str, str, str]:
    """Path, label and a description of the damage."""
    if not known:
        return "", "", "a column other than the image has changed since it was ingested"
    return rows["path"][row].as_py(), rows["label"][row].as_py(), "the image's bytes have changed since it was ingested"


def _take(dataset: lance.LanceDataset, addresses: Addresses) -> pa.RecordBatch:
    (batch,) = take_addresses(dataset, addresses, SPLIT_SCHEMA.names).combine_chunks().to_batches()
    return batch
