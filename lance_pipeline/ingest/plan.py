"""Plans an ingest: compares the listed files with the seen files and with the rows of the datasets."""

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lance_pipeline.imaging.decoding import DECODERS
from lance_pipeline.imaging.rejection import Rejected
from lance_pipeline.ingest.backlog import Backlog
from lance_pipeline.ingest.seen_files import SeenFiles
from lance_pipeline.ingest.stored_split import StoredSplit
from lance_pipeline.ingest.writing import Written
from lance_pipeline.sources.split_assignment import UNKNOWN, Assignment
from lance_pipeline.storage.columns import Indices, Mask, equal, first_valid, order_of_path_hash, positions

_NOWHERE = -1
# The columns of seen files that decide whether a file is finished.
_KNOWN = ["sha256", "pixel_digest", "reason", "detail", "decoders"]


@dataclass
class Plan:
    """What is known about the files.

    Attributes:
        splits: all splits; a split's code is its position here.
        labels: the label of each file.
        codes: the code of each file's split; ``UNKNOWN`` until the file is read.
        kept: which stored rows of each split stay; reading files can add to it.
        at, at_code: for each file, the position of the stored row that may have the same bytes, and
            the code of that row's split; -1 if there is none.
        rejected: files known to be bad, by their position in the listing.
        written: data files for the coming commit; at first those of an interrupted ingest that can be used.
    """

    splits: tuple[str, ...]
    labels: pa.ChunkedArray
    codes: NDArray[np.int8]
    kept: dict[str, Mask]
    at: Indices
    at_code: NDArray[np.int8]
    rejected: dict[int, Rejected] = field(default_factory=dict)
    written: list[Written] = field(default_factory=list)

    def keep(self, files: Indices) -> None:
        """Keep the rows of these files, whose bytes turned out to be unchanged."""
        for code, split in enumerate(self.splits):
            if split in self.kept:
                self.kept[split][self.at[files[self.at_code[files] == code]]] = True

    def stored_digests(self, files: Indices, stored: dict[str, StoredSplit]) -> tuple[pa.Array, pa.Array]:
        """The byte and pixel digests of the stored rows that may equal these files; null if there is none."""
        digests: list[pa.Array] = [pa.nulls(len(files), pa.binary())] * 2
        for code, split in enumerate(self.splits):
            mine = self.at_code[files] == code
            if split in stored and mine.any():
                at = np.where(mine, self.at[files], _NOWHERE)
                found = stored[split].sha256(at), stored[split].pixel_digests(at)
                digests = [first_valid(old, new) for old, new in zip(digests, found, strict=True)]
        return digests[0], digests[1]


def make_plan(
    files: pa.Table, seen: SeenFiles, stored: dict[str, StoredSplit], assignment: Assignment
) -> tuple[Plan, Backlog]:
    """Compare the listed files with the seen files and the stored rows, column by column.

    Args:
        files: a table with the columns of ``listing.files_to_ingest``.
        seen: the files seen earlier; they are loaded here.
        stored: the wanted splits.
        assignment: the split of each file.

    Returns:
        The plan, and the files left to read, in the order of a hash of their path.
    """
    rows = seen.compact(seen.load(), files["path"])
    where = _unchanged(files, rows)
    old = np.flatnonzero(where >= 0)
    known = rows.select(_KNOWN).take(pa.array(where[old])).combine_chunks()
    plan = Plan(
        splits=assignment.splits,
        labels=files["label"],
        codes=np.full(len(files), UNKNOWN, np.int8),
        kept={},
        at=np.full(len(files), _NOWHERE, np.int64),
        at_code=np.full(len(files), UNKNOWN, np.int8),
    )
    # A rejected file has no pixels, so its split follows from the digest of its bytes instead.
    plan.codes[old] = assignment.codes(first_valid(known["pixel_digest"], known["sha256"]))
    bad = known["reason"].is_valid().to_numpy()
    done = np.zeros(len(files), dtype=bool)
    done[old] = bad & equal(known["decoders"], pa.repeat(pa.scalar(DECODERS), len(old)))
    plan.rejected = _known_rejected(files, known, old, done)
    for code, split in enumerate(assignment.splits):
        mine = ~bad & (plan.codes[old] == code)
        if split not in stored:
            done[old] |= mine
            continue
        at = stored[split].find(files["path"])
        plan.kept[split] = np.zeros(len(stored[split].rows), dtype=bool)
        same = mine & (at[old] >= 0)
        same[same] = equal(known["sha256"].filter(pa.array(same)), stored[split].sha256(at[old][same]))
        plan.kept[split][at[old][same]] = True
        done[old] |= same
        # A file with another mtime may still have the bytes of its row, if that row is in the right split.
        right = (at >= 0) & (assignment.codes(stored[split].pixel_digests(at)) == code)
        plan.at[right], plan.at_code[right] = at[right], code
    _resume(plan, seen, rows["written"], where, done, stored)
    order = order_of_path_hash(files["path"].filter(pa.array(~done)))
    return plan, Backlog(files, np.flatnonzero(~done)[order])


def _unchanged(files: pa.Table, rows: pa.Table) -> Indices:
    """For each file, the seen row with its path; -1 if size or mtime differ."""
    where = positions(files["path"], rows["path"])
    for name in ("size", "mtime_ns"):
        seen = rows[name].to_numpy()
        found = np.flatnonzero(where >= 0)
        where[found[seen[where[found]] != files[name].to_numpy()[found]]] = _NOWHERE
    return where


def _known_rejected(files: pa.Table, known: pa.Table, old: Indices, done: Mask) -> dict[int, Rejected]:
    """The files that need no work because they are known to be bad."""
    bad = np.flatnonzero(done[old])
    what = known.select(["reason", "detail"]).take(pa.array(bad)).to_pylist()
    listed = files.select(["path", "label", "size"]).take(pa.array(old[bad])).to_pylist()
    return {
        int(position): Rejected(one["path"], one["label"], one["size"], why["reason"], why["detail"])
        for position, one, why in zip(old[bad], listed, what, strict=True)
    }


def _resume(
    plan: Plan, seen: SeenFiles, split_of: pa.ChunkedArray, where: Indices, done: Mask, stored: dict[str, StoredSplit]
) -> None:
    """Reuse the data files of an interrupted ingest whose rows are all still wanted."""
    start = 0
    for step in seen.steps:
        for written in map(Written.from_json, step.written):
            if written.split not in stored or not written.fits(stored[written.split]):
                continue
            mine = start + np.flatnonzero(
                equal(split_of.slice(start, step.files), pa.repeat(written.split, step.files))
            )
            used = np.flatnonzero(np.isin(where, mine))
            wanted = ~done[used] & (plan.codes[used] == plan.splits.index(written.split))
            if len(used) == len(mine) and wanted.all() and seen.exist(written.data_files(stored[written.split].uri)):
                done[used] = True
                plan.written.append(written)
        start += step.files
