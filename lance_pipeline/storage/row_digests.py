"""Digests of stored rows, which detect damage on disk: Lance keeps no checksums of its pages.

Two columns hold XXH3-64 digests of each row: one of the image's bytes and one of all other columns, so that a loader
need not read columns that it does not use. The dataset's facts hold the sums of the digests, which detect rows that are
missing, duplicated or under a different label. XXH3 detects accidental damage at almost no cost; SHA-256, in a column
of its own, identifies the content.
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
"""The columns that ``row_digest`` is computed from: all except itself and the image."""
_MODULUS = 1 << 64


def image_digests(images: Iterable[bytes | memoryview]) -> Digests:
    """The XXH3-64 of each image's bytes."""
    return np.fromiter(map(xxhash.xxh3_64_intdigest, images), np.uint64)


def row_digests(rows: pa.RecordBatch) -> Digests:
    """The XXH3-64 of the columns ``DESCRIBED`` of each row: numbers as little-endian bytes, then NUL-separated texts.

    Args:
        rows: contains at least these columns, as in SPLIT_SCHEMA.
    """
    if not len(rows):
        return np.empty(0, np.uint64)
    numbers = np.hstack([_bytes_of(rows[name]) for name in _NUMBERS])
    size, raw = numbers.shape[1], numbers.tobytes()
    # As bytes, because damaged text may not be valid UTF-8.
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
    """The values of a fixed-width column as uint8 (rows, width)."""
    if pa.types.is_fixed_size_list(column.type):
        values = column.flatten().to_numpy()
    elif pa.types.is_fixed_size_binary(column.type):
        width = column.type.byte_width
        return np.frombuffer(column.buffers()[1], np.uint8).reshape(-1, width)[column.offset :][: len(column)]
    else:
        values = (column.view(pa.int64()) if pa.types.is_timestamp(column.type) else column).to_numpy()
    return np.ascontiguousarray(values).view(np.uint8).reshape(len(column), -1)


class DigestSums(BaseModel):
    """Sums of digests modulo 2**64, which can be added and subtracted in any order."""

    images: dict[str, int] = {}
    """The sum of ``image_digest`` per label; labels whose sum is 0 are omitted."""
    rows: int = 0
    """The sum of all ``row_digest``."""

    def plus(self, other: "DigestSums", sign: int = 1) -> "DigestSums":
        """The sums over the rows of both; with ``sign`` -1, over these rows without the others."""
        labels = dict.fromkeys([*self.images, *other.images])
        sums = {label: (self.images.get(label, 0) + sign * other.images.get(label, 0)) % _MODULUS for label in labels}
        rows = (self.rows + sign * other.rows) % _MODULUS
        return DigestSums(images={label: total for label, total in sums.items() if total}, rows=rows)


def digest_sums(rows: pa.RecordBatch) -> DigestSums:
    """The sums over rows that contain ``label`` and both digest columns."""
    labels = rows["label"].dictionary_encode()
    names = labels.dictionary.to_pylist()
    sums = sums_by_class(labels.indices.to_numpy(), rows[IMAGE_DIGEST].to_numpy(), len(names))
    images = {name: total for name, total in zip(names, sums, strict=True) if total}
    return DigestSums(images=images, rows=int(rows[ROW_DIGEST].to_numpy().sum(dtype=np.uint64)))


def sums_by_class(codes: NDArray[np.integer], images: Digests, classes: int) -> list[int]:
    """The sum of image digests per class, modulo 2**64."""
    sums = np.zeros(classes, np.uint64)
    np.add.at(sums, codes, images)
    return sums.tolist()
