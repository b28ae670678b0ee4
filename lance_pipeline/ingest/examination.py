"""What becomes of files: rows, reasons against them, or what is stored already.

Pure of Lance and of any dataset's state, so that it runs as well in a thread as in a process of its own.
"""

import time
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lance_pipeline.imaging.decoding import DECODERS
from lance_pipeline.imaging.headers import plain_png
from lance_pipeline.imaging.rejection import Rejected, RejectedFileError, UndecodableImageError
from lance_pipeline.ingest.inspection import Inspected, bytes_digest, inspect_images
from lance_pipeline.ingest.split_rows import Row, rows_to_batch
from lance_pipeline.ingest.totals import Totals, totals_of
from lance_pipeline.sources.raw_files import FileReader
from lance_pipeline.sources.split_assignment import UNKNOWN, Assignment
from lance_pipeline.storage.schema import SEEN_SCHEMA
from lance_pipeline.storage.transparency import Transparency

# The coarsest clock of a file system, FAT's: within it two contents can have one time.
_SETTLED_NS = 2_000_000_000
_UNSETTLED = -1
_JPEG = b"\xff\xd8\xff"
# By how many bytes the files of a stretch may have grown since they were listed: stretches are cut to fit into memory.
_GROWTH_BYTES = 64 << 20
FILES = ("path", "label", "size", "mtime_ns", "stored_sha256", "stored_pixel_digest")
"""The columns of the files to examine: their listing, and the digests of the row that each may still equal."""


class Job(NamedTuple):
    """What is the same for all files of an ingest.

    Attributes:
        reader: reads them.
        assignment: draws their split.
        wanted: the splits whose rows are.
        transparency: what transparent pixels become.
        blended_otherwise: whether stored digests are of pixels that were blended in another way.
    """

    reader: FileReader
    assignment: Assignment
    wanted: frozenset[str]
    transparency: Transparency
    blended_otherwise: bool


class Outcome(NamedTuple):
    """What became of a stretch of files.

    Attributes:
        codes: of each file its split's code; ``UNKNOWN`` where its bytes are stored already.
        rejected: by position in the stretch.
        seen: what to remember of those whose bytes could be read, of SEEN_SCHEMA.
        rows: for each wanted split its new rows, of ``split_schema``, and their totals.
    """

    codes: NDArray[np.int8]
    rejected: dict[int, Rejected]
    seen: pa.RecordBatch
    rows: dict[str, tuple[pa.RecordBatch, Totals]]


class _Content(NamedTuple):
    """A file that could be read.

    Attributes:
        seen_mtime_ns: -1 where a later change might not show in ``mtime_ns``.
        stored_pixel_digest: of the row with the same bytes; None where there is none.
        decoded: whether that digest does not settle it.
    """

    place: int
    path: str
    label: str
    data: bytes
    size: int
    mtime_ns: int
    seen_mtime_ns: int
    sha256: bytes
    stored_pixel_digest: bytes | None
    decoded: bool


def examine(job: Job, files: pa.RecordBatch, verdict: str | None = None) -> Outcome:
    """Read files and, unless their bytes are stored already, decode them in full.

    Args:
        job: what is the same for all files.
        files: with the columns of FILES.
        verdict: why they are corrupt, where that is known; they are then not decoded.

    Raises:
        InputError: the storage failed.
    """
    contents, rejected = _read(job, files)
    codes = np.full(len(files), UNKNOWN, np.int8)
    for place, one in rejected.items():
        # Of a rejected file other bytes stand in for those of the pixels that it lacks.
        codes[place] = job.assignment.code(one.path.encode())
    new = [one for one in contents if one.decoded]
    if verdict is None:
        images = inspect_images([one.data for one in new], job.transparency)
    else:
        images = [UndecodableImageError("corrupt", verdict)] * len(new)
    found = dict(zip((one.place for one in new), images, strict=True))
    seen, rows = [], {split: [] for split in job.wanted}
    for one in contents:
        image = found.get(one.place)
        digest, reason, detail, decoders, written = one.stored_pixel_digest, None, None, None, None
        if isinstance(image, Inspected) and image.measured.pixel_digest != digest:
            digest = image.measured.pixel_digest
            codes[one.place] = code = job.assignment.code(digest)
            split = job.assignment.splits[code]
            if split in rows:
                written = split
                rows[split].append(Row(one.path, one.label, one.size, one.mtime_ns, one.data, one.sha256, image))
        elif isinstance(image, UndecodableImageError):
            reason, detail, decoders = image.reason, str(image), DECODERS
            codes[one.place] = job.assignment.code(one.sha256)
            rejected[one.place] = Rejected(one.path, one.label, one.size, reason, detail)
        seen.append((one.path, one.size, one.seen_mtime_ns, one.sha256, digest, reason, detail, decoders, written))
    batches = {split: rows_to_batch(split, members) for split, members in rows.items() if members}
    totals = {split: (batch, totals_of(batch)) for split, batch in batches.items()}
    return Outcome(codes, rejected, _seen_batch(seen), totals)


def reject_unread(job: Job, files: pa.RecordBatch, verdict: str) -> Outcome:
    """Files that are corrupt and cannot even be read; they are not remembered."""
    columns = [files[name].to_pylist() for name in ("path", "label", "size")]
    rejected = {
        place: Rejected(path, label, size, "corrupt", verdict)
        for place, (path, label, size) in enumerate(zip(*columns, strict=True))
    }
    codes = np.array([job.assignment.code(one.path.encode()) for one in rejected.values()], np.int8)
    return Outcome(codes, rejected, _seen_batch([]), {})


def _read(job: Job, files: pa.RecordBatch) -> tuple[list[_Content], dict[int, Rejected]]:
    contents, rejected, growth = [], {}, _GROWTH_BYTES
    columns = [files[name].to_pylist() for name in FILES]
    for place, (path, label, size, mtime_ns, stored, pixel_digest) in enumerate(zip(*columns, strict=True)):
        began = time.time_ns()
        try:
            data, size_then, time_then = job.reader.read(path, size, mtime_ns, growth)
        except RejectedFileError as rejection:
            rejected[place] = Rejected(path, label, size, rejection.reason, str(rejection))
            continue
        growth -= max(size_then - size, 0)
        sha256 = bytes_digest(data)
        seen_time = time_then if time_then < began - _SETTLED_NS else _UNSETTLED
        same = pixel_digest if sha256 == stored else None
        decoded = same is None or (job.blended_otherwise and _may_be_transparent(data))
        contents.append(_Content(place, path, label, data, size_then, time_then, seen_time, sha256, same, decoded))
    return contents, rejected


def _may_be_transparent(data: bytes) -> bool:
    return not data.startswith(_JPEG) and plain_png(data) is None


def _seen_batch(rows: list[tuple[object, ...]]) -> pa.RecordBatch:
    columns = list(zip(*rows, strict=True)) or [()] * len(SEEN_SCHEMA)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, SEEN_SCHEMA, strict=True)]
    return pa.record_batch(arrays, schema=SEEN_SCHEMA)
