"""Restores damaged rows of a split from older versions, for when the image files are gone.

If the files still exist, :func:`lance_pipeline.ingest.ingestion.ingest` repairs from them.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import reduce
from typing import NamedTuple

import lance
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lance_pipeline.errors import DamagedError, InputError
from lance_pipeline.ingest.stored_split import StoredSplit
from lance_pipeline.ingest.totals import Totals, totals_of
from lance_pipeline.ingest.writing import SplitWriter
from lance_pipeline.storage.columns import Mask, positions
from lance_pipeline.storage.facts import read_facts
from lance_pipeline.storage.recovery import recover_table
from lance_pipeline.storage.table_errors import reading
from lance_pipeline.storage.table_lock import locked
from lance_pipeline.storage.tables import open_table
from lance_pipeline.storage.uris import Place, normalized_uri
from lance_pipeline.storage.verification import DamagedRow, intact_rows


class RepairResult(NamedTuple):
    """The result of a repair.

    Attributes:
        uri, version: the split, and its version now.
        damaged: rows that were damaged.
        lost: the damaged rows that no older version had intact.
        same: whether the rows now have the fingerprint of those that were ingested.
    """

    uri: str
    version: int
    damaged: int
    lost: list[DamagedRow]
    same: bool


def repair_from_versions(place: Place) -> RepairResult:
    """Remove the damaged rows of a split and restore those that an older version has intact, in one commit.

    Raises:
        InputError: no version can be read, or the dataset was not written by an ingest.
    """
    uri = normalized_uri(place)
    with locked([uri]):
        table = recover_table(uri)
        if table is None or "digests" not in (facts := read_facts(table)):
            raise InputError(
                f"cannot repair {uri}: no version of it that an ingest wrote can be read. "
                "Materialize the asset that writes it to ingest the image files again."
            )
        stored = StoredSplit(facts["split"], uri, repair=True)
        if not stored.damaged:
            return RepairResult(uri, table.version, 0, [], same=True)
        writer, paths = SplitWriter(stored), set[str]()
        for rows in _restorable_rows(stored, table):
            writer.add(rows, totals_of(rows))
            paths.update(rows["path"].to_pylist())
        written = writer.finish()
        kept = {key: facts[key] for key in ("classes", "quarantine")}
        everything = np.ones(len(stored.rows), dtype=bool)
        dataset = stored.commit(everything, written.fragments if paths else [], written.totals, kept)
        same = read_facts(dataset)["fingerprint"] == facts["fingerprint"]
        lost = [] if same else [row for row in stored.damaged if row.path not in paths]
        return RepairResult(uri, dataset.version, len(stored.damaged), lost, same)


def _restorable_rows(stored: StoredSplit, table: lance.LanceDataset) -> Iterator[pa.RecordBatch]:
    """The damaged rows that an older version has intact, each once.

    A damaged row of unknown path could be any row that the split lacks now. All such rows of an older version are
    taken if the fingerprint shows that with them the split is exactly what was ingested.
    """
    wanted = pa.array([row.path for row in stored.damaged if row.path], pa.string())
    unknown, facts = len(wanted) < len(stored.damaged), read_facts(table)
    for old in _older_versions(stored.uri, table.version):
        missing = _rows_at(old, lambda paths: positions(paths, stored.rows["path"]) < 0)
        if unknown and _fingerprint_with(stored, intact_rows(old, missing)) == facts["fingerprint"]:
            yield from intact_rows(old, missing)
            return
        known = _rows_at(old, lambda paths, wanted=wanted: positions(paths, wanted) >= 0)
        for rows in intact_rows(old, known):
            wanted = wanted.filter(pa.array(positions(wanted, rows["path"]) < 0))
            yield rows


def _fingerprint_with(stored: StoredSplit, rows: Iterable[pa.RecordBatch]) -> str:
    """The fingerprint of the intact rows together with these."""
    return reduce(Totals.plus, map(totals_of, rows), stored.totals()).fingerprint


def _older_versions(uri: str, version: int) -> Iterator[lance.LanceDataset]:
    """The older versions that can be opened, the latest first."""
    for number in sorted((one["version"] for one in open_table(uri).versions()), reverse=True):
        if number < version:
            with suppress(InputError):
                yield open_table(uri, number)


def _rows_at(dataset: lance.LanceDataset, chosen: Callable[[pa.ChunkedArray], Mask]) -> NDArray[np.uint64]:
    """The addresses of the rows that ``chosen`` selects by their paths; unreadable data files are skipped."""
    found = [np.empty(0, np.uint64)]
    for fragment in dataset.get_fragments():
        try:
            with reading(dataset.uri, dataset.version):
                rows = dataset.scanner(columns=["path"], with_row_address=True, fragments=[fragment]).to_table()
        except DamagedError:
            continue
        found.append(rows["_rowaddr"].to_numpy()[chosen(rows["path"])])
    return np.concatenate(found)
