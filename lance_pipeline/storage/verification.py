"""Every stored row of a split read and compared with its digests."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import lance
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lance_pipeline.errors import InputError
from lance_pipeline.storage.facts import read_facts
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
# So many rows are held at a time, and so many decide whether a data file can be read at all.
_ROWS, _SAMPLES = 256, 8


class DamagedRow(NamedTuple):
    """A row that cannot be read, or is not what was ingested; path and label are empty where they are unknown."""

    fragment: int
    path: str
    label: str
    detail: str


class Verification(NamedTuple):
    """What was found in one version of a split.

    Attributes:
        uri, version: the version.
        intact: the addresses of the rows that are what was ingested, uint64.
        damaged: all other rows that the version names.
        note: what else is wrong; empty where nothing is.
    """

    uri: str
    version: int
    intact: Addresses
    damaged: list[DamagedRow]
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.damaged and not self.note


class _Stretch(NamedTuple):
    """Rows that were read, with the addresses of those that are intact."""

    intact: Addresses
    damaged: list[DamagedRow]
    sums: DigestSums


def verify_rows(
    dataset: lance.LanceDataset, progress: Callable[[int, int], None] = lambda done, total: None
) -> Verification:
    """Read all rows of a version and compare them with their digests, and these with their sums in the facts.

    Memory holds a few hundred rows at a time.

    Args:
        dataset: a version that an ingest wrote.
        progress: called with (rows read, rows) now and then.

    Raises:
        InputError: the rows have no digests.
        DamagedError: the version's facts are damaged.
    """
    facts = read_facts(dataset)
    if "digests" not in facts:
        raise InputError(
            f"the rows of {dataset.uri} have no digests to compare with, as another tool or an earlier release wrote "
            "them. Materialize the asset that writes it; then they have."
        )
    fragments = dataset.get_fragments()
    total = sum(fragment.physical_rows - fragment.metadata.num_deletions for fragment in fragments)
    intact: list[Addresses] = [np.empty(0, np.uint64)]
    damaged: list[DamagedRow] = []
    sums, done = DigestSums(), 0
    for fragment in fragments:
        for found in _stretches(dataset, fragment):
            intact.append(found.intact)
            damaged += found.damaged
            sums = sums.plus(found.sums)
            done += len(found.intact) + len(found.damaged)
            progress(done, total)
    rows, note = sum(map(len, intact)), ""
    if not damaged and facts["rows"] != rows:
        note = f"it has {rows} rows and had {facts['rows']} when it was ingested: another tool has changed it"
    elif not damaged and sums != DigestSums.model_validate(facts["digests"]):
        note = "rows are missing, doubled, or not those that were ingested"
    return Verification(dataset.uri, dataset.version, np.concatenate(intact), damaged, note)


def _stretches(dataset: lance.LanceDataset, fragment: lance.LanceFragment) -> Iterator[_Stretch]:
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
        yield _verified(dataset, addresses[start : start + _ROWS])


def _require_any(dataset: lance.LanceDataset, addresses: Addresses) -> None:
    """Read some rows of a fragment one by one until one succeeds; raises the last one's error if none does.

    Of a data file that is gone or cut off no row can be read, and asking for each of them would take long.
    """
    samples = addresses[np.unique(np.linspace(0, len(addresses) - 1, _SAMPLES).astype(int))] if len(addresses) else []
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


def _unreadable(fragment: int, count: int, error: BaseException) -> _Stretch:
    return _Stretch(
        np.empty(0, np.uint64), [DamagedRow(fragment, "", "", f"cannot be read: {brief(error)}")] * count, DigestSums()
    )


def intact_rows(dataset: lance.LanceDataset, addresses: Addresses) -> Iterator[pa.RecordBatch]:
    """Of the rows at these addresses those that are what was ingested, some at a time, with all columns of a split."""
    for start in range(0, len(addresses), _ROWS):
        good = _verified(dataset, addresses[start : start + _ROWS]).intact
        if len(good):
            yield from take_addresses(dataset, good, SPLIT_SCHEMA.names).combine_chunks().to_batches()


def _verified(dataset: lance.LanceDataset, addresses: Addresses) -> _Stretch:
    """Rows of one fragment; halves are tried where they cannot be read together."""
    try:
        rows = _take(dataset, addresses)
    except BaseException as error:
        if not is_unreadable(error):
            raise
        if len(addresses) == 1:
            return _unreadable(int(addresses[0] >> np.uint64(32)), 1, error)
        half = len(addresses) // 2
        one, other = _verified(dataset, addresses[:half]), _verified(dataset, addresses[half:])
        return _Stretch(
            np.concatenate([one.intact, other.intact]), one.damaged + other.damaged, one.sums.plus(other.sums)
        )
    described = row_digests(rows) == rows[ROW_DIGEST].to_numpy()
    seen = image_digests(value.as_buffer() for value in rows["image"]) == rows[IMAGE_DIGEST].to_numpy()
    good = described & seen
    damaged = [
        DamagedRow(int(addresses[row] >> np.uint64(32)), *_names(rows, row, known=bool(described[row])))
        for row in np.flatnonzero(~good).tolist()
    ]
    return _Stretch(addresses[good], damaged, digest_sums(rows.filter(pa.array(good))))


def _names(rows: pa.RecordBatch, row: int, *, known: bool) -> tuple[str, str, str]:
    """Path, label, and what is wrong."""
    if not known:
        return "", "", "a column other than the image is not what was ingested"
    return rows["path"][row].as_py(), rows["label"][row].as_py(), "the image's bytes are not those that were ingested"


def _take(dataset: lance.LanceDataset, addresses: Addresses) -> pa.RecordBatch:
    (batch,) = take_addresses(dataset, addresses, SPLIT_SCHEMA.names).combine_chunks().to_batches()
    return batch
