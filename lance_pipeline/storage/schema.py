"""The columns of the datasets that an ingest writes, and of its record of seen files."""

from typing import Literal, get_args

import pyarrow as pa

from lance_pipeline.storage.row_digests import IMAGE_DIGEST, ROW_DIGEST

Reason = Literal[
    "empty", "not_an_image", "truncated", "corrupt", "unsupported", "too_large", "link", "unreadable", "not_a_file",
    "missing", "suspicious",
]  # fmt: skip
REASONS: tuple[Reason, ...] = get_args(Reason)

LATEST_NS = 2**63 - 1
"""The latest time that a column can store, in nanoseconds since 1970: in 2262. Later ones are clamped to it."""
_SUMS = pa.list_(pa.int64(), 3)
_PATH = "Relative to the split's folder, unique; % becomes %25, a byte that is not UTF-8 %XX"
_SPLIT: list[tuple[str, pa.DataType, str]] = [
    ("image", pa.binary(), "The file's bytes, unchanged"),
    ("filename", pa.string(), "The file's name"),
    ("label", pa.string(), "The class: the name of the class folder"),
    ("split", pa.string(), "train, val or test"),
    ("path", pa.string(), _PATH),
    ("width", pa.int32(), "In pixels, after applying the EXIF orientation"),
    ("height", pa.int32(), "In pixels, after applying the EXIF orientation"),
    ("format", pa.string(), "The encoding detected from the content, by Pillow's name, such as PNG or JPEG"),
    ("sha256", pa.binary(32), "SHA-256 of the file's bytes"),
    ("pixel_digest", pa.binary(16), "XXH3-128 of the RGB pixels: equal for images of equal size and pixels"),
    ("perceptual_hash", pa.uint64(), "64-bit dHash: few bits differ between images that look alike"),
    ("size", pa.int64(), "Size of the file in bytes"),
    ("mtime", pa.timestamp("ns", "UTC"), "The file's modification time when it was read"),
    ("channel_sum", _SUMS, "Sums of red, green and blue over all pixels, each 0 to 255"),
    ("channel_square_sum", _SUMS, "Sums of their squares"),
    (IMAGE_DIGEST, pa.uint64(), "XXH3-64 of the file's bytes, checked whenever the image is read"),
    (ROW_DIGEST, pa.uint64(), "XXH3-64 of all other columns except the image"),
]
_REJECTED: list[tuple[str, pa.DataType, str]] = [
    ("path", pa.string(), _PATH),
    ("label", pa.string(), "The class: the name of the class folder"),
    ("size", pa.int64(), "Size of the file in bytes"),
    ("reason", pa.string(), "One of: " + ", ".join(REASONS)),
    ("detail", pa.string(), "A description of the problem"),
]


# Image files are already compressed: another attempt would take several times as long as writing them.
_ENCODING = {"image": {"lance-encoding:compression": "none"}}


def _schema(columns: list[tuple[str, pa.DataType, str]]) -> pa.Schema:
    return pa.schema(
        [
            pa.field(name, kind, nullable=False, metadata={"description": text} | _ENCODING.get(name, {}))
            for name, kind, text in columns
        ]
    )


SPLIT_SCHEMA = _schema(_SPLIT)
"""One row per image: the article's four columns first."""
REJECTED_SCHEMA = _schema(_REJECTED)
"""One row per file that was rejected."""
SEEN_SCHEMA = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("mtime_ns", pa.int64(), nullable=False),
        pa.field("sha256", pa.binary(32), nullable=False),
        # Null if the file was rejected; reason and detail then say why.
        pa.field("pixel_digest", pa.binary(16)),
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
        # The decoder versions that rejected it: other versions may accept it.
        pa.field("decoders", pa.string()),
        # The split whose data files the row was written to in this step, if any.
        pa.field("written", pa.string()),
    ]
)
"""One row per file that an ingest has read."""
