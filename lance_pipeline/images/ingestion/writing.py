"""Inspected images to rows of a split's dataset, not yet committed."""

import json
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
from lance.fragment import FragmentMetadata

from lance_pipeline.images.ingestion.fragments import FragmentWriter
from lance_pipeline.images.ingestion.inspection import Inspected, perceptual_hashes
from lance_pipeline.images.ingestion.stored import StoredSplit
from lance_pipeline.images.ingestion.totals import Totals, totals_of
from lance_pipeline.images.names import unescape_name
from lance_pipeline.images.object_store import join_uri
from lance_pipeline.images.schema import SPLIT_SCHEMA

# A batch ends at whichever comes first: enough rows to write fast, or enough bytes to hold.
_BATCH_ROWS = 1024
_BATCH_BYTES = 16 << 20


class Written(NamedTuple):
    """Data files that wait to be committed to a split, and what their rows add up to."""

    split: str
    mode: str
    fragments: list[FragmentMetadata]
    totals: Totals

    def to_json(self) -> dict[str, Any]:
        """As it is remembered."""
        return {
            "split": self.split,
            "mode": self.mode,
            "fragments": [fragment.to_json() for fragment in self.fragments],
            "totals": self.totals.model_dump(mode="json"),
        }

    def data_files(self, uri: str) -> list[str]:
        """Where they are, given the dataset's URI."""
        return [join_uri(uri, "data", file.path) for fragment in self.fragments for file in fragment.files]

    @classmethod
    def from_json(cls, facts: dict[str, Any]) -> Self:
        """As it was remembered."""
        fragments = [FragmentMetadata.from_json(json.dumps(fragment)) for fragment in facts["fragments"]]
        return cls(facts["split"], facts["mode"], fragments, Totals.model_validate(facts["totals"]))


class Row(NamedTuple):
    """What the listing, the storage and the decoder know of an image."""

    path: str
    label: str
    size: int
    mtime_ns: int
    image: Inspected


class SplitWriter:
    """Writes rows to new data files of one split."""

    def __init__(self, stored: StoredSplit) -> None:
        self._stored = stored
        self._writer = FragmentWriter(stored.uri, SPLIT_SCHEMA, mode=stored.mode)
        self._rows: list[Row] = []
        self._bytes = 0
        self._totals = Totals()

    def add(self, row: Row) -> None:
        """Write a row, sooner or later."""
        self._rows.append(row)
        self._bytes += len(row.image.data)
        if len(self._rows) >= _BATCH_ROWS or self._bytes >= _BATCH_BYTES:
            self._flush()

    def finish(self) -> Written:
        """The data files, complete."""
        self._flush()
        return Written(self._stored.split, self._stored.mode, self._writer.finish(), self._totals)

    def abandon(self) -> None:
        """Stop writing; the next ingest removes the files."""
        self._writer.abandon()

    def _flush(self) -> None:
        if not self._rows:
            return
        rows, self._rows, self._bytes = self._rows, [], 0
        batch = rows_to_batch(self._stored.split, rows)
        paths, labels, _, _, images = zip(*rows, strict=True)
        pixels = (image.width * image.height for image in images)
        sums, square_sums = ([image.measured[place] for image in images] for place in (2, 3))
        digests = (image.sha256 for image in images)
        self._totals = self._totals.plus(totals_of(paths, labels, digests, pixels, sums, square_sums))
        self._writer.write(batch)


def rows_to_batch(split: str, rows: list[Row]) -> pa.RecordBatch:
    """The rows of a split as a batch of SPLIT_SCHEMA."""
    paths, labels, sizes, times, images = zip(*rows, strict=True)
    data, sha256, widths, heights, formats, measured = zip(*images, strict=True)
    pixel_digests, grids, sums, square_sums = zip(*measured, strict=True)
    columns = {
        "image": _binary(data),
        "filename": [_filename(path) for path in paths],
        "label": labels,
        "split": [split] * len(rows),
        "path": paths,
        "width": widths,
        "height": heights,
        "format": formats,
        "sha256": sha256,
        "pixel_digest": pixel_digests,
        "perceptual_hash": perceptual_hashes(grids),
        "size": sizes,
        "mtime": np.array(times, dtype="datetime64[ns]"),
        "channel_sum": _triples(sums),
        "channel_square_sum": _triples(square_sums),
    }
    arrays = [
        columns[field.name] if isinstance(columns[field.name], pa.Array) else pa.array(columns[field.name], field.type)
        for field in SPLIT_SCHEMA
    ]
    return pa.record_batch(arrays, schema=SPLIT_SCHEMA)


def _filename(path: str) -> str:
    """The file's name for people; bytes that are not UTF-8 are shown by their number."""
    name = path.rpartition("/")[2]
    return unescape_name(name).decode("utf-8", "backslashreplace") if "%" in name else name


def _binary(values: tuple[bytes, ...]) -> pa.Array:
    """The values as one array, copied once: a builder would copy them again each time that it grows."""
    offsets = np.zeros(len(values) + 1, np.int32)
    np.cumsum([len(value) for value in values], out=offsets[1:])
    return pa.Array.from_buffers(
        pa.binary(), len(values), [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(values))]
    )


def _triples(values: tuple[tuple[int, int, int], ...]) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(np.array(values, dtype=np.int64).ravel()), 3)
