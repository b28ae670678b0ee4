"""Damaged rows of a split restored from older versions, for when its image files are gone.

Where the files are still there, :func:`lance_pipeline.ingest.ingestion.ingest` repairs from them.
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
from lance_pipeline.storage.verification import DamagedRow, intact_rows


class Repaired(NamedTuple):
    """What a repair did.

    Attributes:
        uri, version: the split, and its version now.
        damaged: rows that were damaged.
        lost: those of them that no older version had intact.
        same: whether the rows are now those that were ingested, by their fingerprint.
    """

    uri: str
    version: int
    damaged: int
    lost: list[DamagedRow]
    same: bool


def repair_from_versions(uri: str) -> Repaired:
    """Take the damaged rows out of a split, and put those in that an older version still has, in one commit.

    Raises:
        InputError: no version can be read, or an ingest did not write it.
    """
    with locked([uri]):
        table = recover_table(uri)
        if table is None or "digests" not in (facts := read_facts(table)):
            raise InputError(
                f"nothing in {uri} can be repaired: no version of it, as an ingest writes them, can be read. "
                "Materialize the asset that writes it, from the image files."
            )
        stored = StoredSplit(facts["split"], uri, repair=True)
        if not stored.damaged:
            return Repaired(uri, table.version, 0, [], same=True)
        writer, paths = SplitWriter(stored), set[str]()
        for rows in _restored(stored, table):
            writer.add(rows, totals_of(rows))
            paths.update(rows["path"].to_pylist())
        written = writer.finish()
        kept = {key: facts[key] for key in ("classes", "quarantine")}
        everything = np.ones(len(stored.rows), dtype=bool)
        dataset = stored.commit(everything, written.fragments if paths else [], written.totals, kept)
        same = read_facts(dataset)["fingerprint"] == facts["fingerprint"]
        lost = [] if same else [row for row in stored.damaged if row.path not in paths]
        return Repaired(uri, dataset.version, len(stored.damaged), lost, same)


def _restored(stored: StoredSplit, table: lance.LanceDataset) -> Iterator[pa.RecordBatch]:
    """Of the damaged rows those that an older version has intact; each once.

    Where a row's path is unknown, it could be any that is not there now: then all of a version are taken, if with them
    the rows are exactly those that were ingested.
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
    """Of the intact rows and these."""
    return reduce(Totals.plus, map(totals_of, rows), stored.totals()).fingerprint


def _older_versions(uri: str, version: int) -> Iterator[lance.LanceDataset]:
    """Those that can be opened, the latest first."""
    for number in sorted((one["version"] for one in open_table(uri).versions()), reverse=True):
        if number < version:
            with suppress(InputError):
                yield open_table(uri, number)


def _rows_at(dataset: lance.LanceDataset, chosen: Callable[[pa.ChunkedArray], Mask]) -> NDArray[np.uint64]:
    """The addresses of the rows of which ``chosen`` is true, given their paths; of data files that can be read."""
    found = [np.empty(0, np.uint64)]
    for fragment in dataset.get_fragments():
        try:
            with reading(dataset.uri, dataset.version):
                rows = dataset.scanner(columns=["path"], with_row_address=True, fragments=[fragment]).to_table()
        except DamagedError:
            continue
        found.append(rows["_rowaddr"].to_numpy()[chosen(rows["path"])])
    return np.concatenate(found)
