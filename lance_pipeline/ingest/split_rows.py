"""Decoded images as rows of a split's dataset."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from lance_pipeline.imaging.derived_columns import split_schema, with_columns_of
from lance_pipeline.ingest.inspection import ImageInfo, perceptual_hashes
from lance_pipeline.sources.file_names import unescape_name
from lance_pipeline.storage.row_digests import IMAGE_DIGEST, ROW_DIGEST, image_digests, row_digests
from lance_pipeline.storage.schema import SPLIT_SCHEMA


class Row(NamedTuple):
    """An image with its listing, bytes and measurements; size in bytes, mtime in nanoseconds since 1970."""

    path: str
    label: str
    size: int
    mtime_ns: int
    data: bytes
    sha256: bytes
    image: ImageInfo


def rows_to_batch(split: str, rows: list[Row]) -> pa.RecordBatch:
    """The rows of a split as a batch in ``split_schema``."""
    paths, labels, sizes, times, data, sha256, images = zip(*rows, strict=True)
    widths, heights, formats, measured = zip(*images, strict=True)
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
        IMAGE_DIGEST: image_digests(data),
    }
    arrays = {
        name: values if isinstance(values, pa.Array) else pa.array(values, SPLIT_SCHEMA.field(name).type)
        for name, values in columns.items()
    }
    arrays[ROW_DIGEST] = pa.array(row_digests(pa.RecordBatch.from_pydict(arrays)))
    batch = pa.record_batch([arrays[name] for name in SPLIT_SCHEMA.names], schema=SPLIT_SCHEMA)
    return with_columns_of(batch, split_schema())


def _filename(path: str) -> str:
    """The readable name of the file; bytes that are not UTF-8 are shown as hexadecimal escapes."""
    name = path.rpartition("/")[2]
    return unescape_name(name).decode("utf-8", "backslashreplace") if "%" in name else name


def _binary(values: tuple[bytes, ...]) -> pa.Array:
    """The values as one array, copied once; a builder would copy them again each time it grows."""
    offsets = np.zeros(len(values) + 1, np.int32)
    np.cumsum([len(value) for value in values], out=offsets[1:])
    return pa.Array.from_buffers(
        pa.binary(), len(values), [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(values))]
    )


def _triples(values: tuple[tuple[int, int, int], ...]) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(np.array(values, dtype=np.int64).ravel()), 3)
