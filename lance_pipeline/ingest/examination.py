"""Examines files: each becomes a row, is rejected for a reason, or turns out to be stored already.

Needs neither Lance nor the state of a dataset, so it runs in a thread or in a separate process.
"""

import time
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lance_pipeline.imaging.decoding import DECODERS
from lance_pipeline.imaging.headers import plain_png
from lance_pipeline.imaging.rejection import Rejected, RejectedFileError, UndecodableImageError
from lance_pipeline.ingest.inspection import ImageInfo, bytes_digest, inspect_images
from lance_pipeline.ingest.split_rows import Row, rows_to_batch
from lance_pipeline.ingest.totals import Totals, totals_of
from lance_pipeline.sources.raw_files import FileReader
from lance_pipeline.sources.split_assignment import UNKNOWN, Assignment
from lance_pipeline.storage.schema import SEEN_SCHEMA
from lance_pipeline.storage.transparency import Transparency

# The resolution of the coarsest file-system clock (FAT): within it, a file can change and keep its mtime.
_SETTLED_NS = 2_000_000_000
_UNSETTLED = -1
_JPEG = b"\xff\xd8\xff"
# How many bytes the files of a batch may have grown since they were listed: batches are sized to fit into memory.
_GROWTH_BYTES = 64 << 20
FILES = ("path", "label", "size", "mtime_ns", "stored_sha256", "stored_pixel_digest")
"""The columns of the files to examine: their listing, and the digests of the stored row that may be unchanged."""


class Job(NamedTuple):
    """Settings that are the same for all files of an ingest.

    Attributes:
        reader: reads the files.
        assignment: assigns them to splits.
        wanted: the splits to write rows for.
        transparency: what transparent pixels become.
        blended_otherwise: whether the stored digests are of pixels that were blended differently.
    """

    reader: FileReader
    assignment: Assignment
    wanted: frozenset[str]
    transparency: Transparency
    blended_otherwise: bool


class Outcome(NamedTuple):
    """The outcome of a batch of files.

    Attributes:
        codes: the code of each file's split; ``UNKNOWN`` if its bytes are stored already.
        rejected: the rejected files, by position in the batch.
        seen: what to remember of the files whose bytes could be read, in SEEN_SCHEMA.
        rows: the new rows of each wanted split, in ``split_schema``, and their totals.
    """

    codes: NDArray[np.int8]
    rejected: dict[int, Rejected]
    seen: pa.RecordBatch
    rows: dict[str, tuple[pa.RecordBatch, Totals]]


class _Content(NamedTuple):
    """The content of a file that could be read.

    Attributes:
        seen_mtime_ns: -1 if a later change might not show in ``mtime_ns``.
        stored_pixel_digest: of the stored row with the same bytes; None if there is none.
        decode: whether the image must be decoded, because that digest is missing or may be outdated.
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
    decode: bool


def examine(job: Job, files: pa.RecordBatch, verdict: str | None = None) -> Outcome:
    """Read files and decode them in full, unless their bytes are stored already.

    Args:
        job: the settings of the ingest.
        files: the files, with the columns FILES.
        verdict: why they are corrupt, if that is known; they are not decoded then.

    Raises:
        InputError: the storage failed.
    """
    contents, rejected = _read(job, files)
    codes = np.full(len(files), UNKNOWN, np.int8)
    for place, one in rejected.items():
        # A rejected file has no pixels, so its split follows from its path or bytes instead.
        codes[place] = job.assignment.code(one.path.encode())
    new = [one for one in contents if one.decode]
    if verdict is None:
        images = inspect_images([one.data for one in new], job.transparency)
    else:
        images = [UndecodableImageError("corrupt", verdict)] * len(new)
    found = dict(zip((one.place for one in new), images, strict=True))
    seen, rows = [], {split: [] for split in job.wanted}
    for one in contents:
        image = found.get(one.place)
        digest, reason, detail, decoders, written = one.stored_pixel_digest, None, None, None, None
        if isinstance(image, ImageInfo) and image.measured.pixel_digest != digest:
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
    """The outcome of corrupt files that cannot even be read; they are not remembered."""
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
            data, size_read, time_read = job.reader.read(path, size, mtime_ns, growth)
        except RejectedFileError as rejection:
            rejected[place] = Rejected(path, label, size, rejection.reason, str(rejection))
            continue
        growth -= max(size_read - size, 0)
        sha256 = bytes_digest(data)
        seen_time = time_read if time_read < began - _SETTLED_NS else _UNSETTLED
        same = pixel_digest if sha256 == stored else None
        decode = same is None or (job.blended_otherwise and _may_be_transparent(data))
        contents.append(_Content(place, path, label, data, size_read, time_read, seen_time, sha256, same, decode))
    return contents, rejected


def _may_be_transparent(data: bytes) -> bool:
    return not data.startswith(_JPEG) and plain_png(data) is None


def _seen_batch(rows: list[tuple[object, ...]]) -> pa.RecordBatch:
    columns = list(zip(*rows, strict=True)) or [()] * len(SEEN_SCHEMA)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, SEEN_SCHEMA, strict=True)]
    return pa.record_batch(arrays, schema=SEEN_SCHEMA)
