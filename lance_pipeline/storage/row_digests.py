"""Digests of stored rows, which expose damage on the disk: Lance keeps no checksums of its pages.

Two columns hold XXH3-64 digests of each row, one of the image's bytes and one of all other columns, so that a loader
need not read what it has no use for. The dataset's facts hold their sums, which expose rows that are missing, doubled
or under another label. XXH3 detects accidents and costs nearly nothing; SHA-256, in a column of its own, is what names
the content.
"""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray
from pydantic import BaseModel

Digests = NDArray[np.uint64]
IMAGE_DIGEST, ROW_DIGEST = "image_digest", "row_digest"
"""The names of the two columns."""
_TEXTS = ("filename", "label", "split", "path", "format")
_NUMBERS = (
    "width", "height", "sha256", "pixel_digest", "perceptual_hash", "size", "mtime", "channel_sum",
    "channel_square_sum", IMAGE_DIGEST,
)  # fmt: skip
DESCRIBED = (*_TEXTS, *_NUMBERS)
"""The columns that ``row_digest`` is computed from: all but itself and the image."""
_MODULUS = 1 << 64


def image_digests(images: Iterable[bytes | memoryview]) -> Digests:
    """The XXH3-64 of each image's bytes."""
    return np.fromiter(map(xxhash.xxh3_64_intdigest, images), np.uint64)


def row_digests(rows: pa.RecordBatch) -> Digests:
    """The XXH3-64 of each row's columns ``DESCRIBED``, numbers as little-endian bytes before texts with NUL between.

    Args:
        rows: with at least these columns, as in SPLIT_SCHEMA.
    """
    if not len(rows):
        return np.empty(0, np.uint64)
    numbers = np.hstack([_bytes_of(rows[name]) for name in _NUMBERS])
    size, raw = numbers.shape[1], numbers.tobytes()
    # As bytes: damaged text need not be UTF-8.
    texts = zip(*(rows[name].cast(pa.binary()).to_pylist() for name in _TEXTS), strict=True)
    return np.fromiter(
        (
            xxhash.xxh3_64_intdigest(raw[number * size : (number + 1) * size] + b"\0".join(text))
            for number, text in enumerate(texts)
        ),
        np.uint64,
        len(rows),
    )


def _bytes_of(column: pa.Array) -> NDArray[np.uint8]:
    """The values of a column of fixed width, uint8 (rows, width)."""
    if pa.types.is_fixed_size_list(column.type):
        values = column.flatten().to_numpy()
    elif pa.types.is_fixed_size_binary(column.type):
        width = column.type.byte_width
        return np.frombuffer(column.buffers()[1], np.uint8).reshape(-1, width)[column.offset :][: len(column)]
    else:
        values = (column.view(pa.int64()) if pa.types.is_timestamp(column.type) else column).to_numpy()
    return np.ascontiguousarray(values).view(np.uint8).reshape(len(column), -1)


class DigestSums(BaseModel):
    """Sums of digests modulo 2**64, which can be taken apart and put together in any order."""

    images: dict[str, int] = {}
    """For each label the sum of its rows' ``image_digest``; labels whose sum is 0 are left out."""
    rows: int = 0
    """The sum of all ``row_digest``."""

    def plus(self, other: "DigestSums", sign: int = 1) -> "DigestSums":
        """Of the rows of both, or of these without the others where ``sign`` is -1."""
        labels = dict.fromkeys([*self.images, *other.images])
        sums = {label: (self.images.get(label, 0) + sign * other.images.get(label, 0)) % _MODULUS for label in labels}
        rows = (self.rows + sign * other.rows) % _MODULUS
        return DigestSums(images={label: total for label, total in sums.items() if total}, rows=rows)


def digest_sums(rows: pa.RecordBatch) -> DigestSums:
    """The sums of some rows, which have both columns of digests and ``label``."""
    labels = rows["label"].dictionary_encode()
    names = labels.dictionary.to_pylist()
    sums = sums_by_class(labels.indices.to_numpy(), rows[IMAGE_DIGEST].to_numpy(), len(names))
    images = {name: total for name, total in zip(names, sums, strict=True) if total}
    return DigestSums(images=images, rows=int(rows[ROW_DIGEST].to_numpy().sum(dtype=np.uint64)))


def sums_by_class(codes: NDArray[np.integer], images: Digests, classes: int) -> list[int]:
    """For each class the sum of its rows' digests modulo 2**64."""
    sums = np.zeros(classes, np.uint64)
    np.add.at(sums, codes, images)
    return sums.tolist()
