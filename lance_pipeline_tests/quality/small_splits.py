"""Small splits for tests, written without an ingest: any images with any labels and paths."""

import hashlib
import os
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
from PIL import Image

from lance_pipeline.images import LanceSplit
from lance_pipeline.storage.row_digests import IMAGE_DIGEST, ROW_DIGEST, image_digests, row_digests
from lance_pipeline.storage.schema import SPLIT_SCHEMA
from lance_pipeline.storage.tables import commit_table
from lance_pipeline_tests.image_folders import encoded

Named = tuple[str, str, Image.Image]
"""Label, path and image."""


def small_split(folder: str | os.PathLike[str], name: str, images: Iterable[Named]) -> LanceSplit:
    """The images as ``<folder>/<name>.lance``, in the given order."""
    rows = pa.Table.from_pylist([_row(name, *image) for image in images], SPLIT_SCHEMA).combine_chunks()
    digests = [pa.array(row_digests(batch)) for batch in rows.to_batches()]
    table = rows.set_column(
        rows.column_names.index(ROW_DIGEST), SPLIT_SCHEMA.field(ROW_DIGEST), pa.chunked_array(digests, pa.uint64())
    )
    uri = os.path.join(folder, f"{name}.lance")
    commit_table(uri, SPLIT_SCHEMA, table.to_batches(), {})
    return LanceSplit(uri)


def noise(seed: int, size: tuple[int, int] = (24, 20)) -> Image.Image:
    """An image of random pixels; ``size`` is (width, height)."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8))


def _row(split: str, label: str, path: str, image: Image.Image) -> dict[str, object]:
    data, pixels = encoded(image), np.asarray(image.convert("RGB")).astype(np.int64)
    digest = hashlib.blake2b(repr(image.size).encode() + image.tobytes(), digest_size=16).digest()
    grey = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX)).astype(int)
    bits = np.packbits((grey[:, 1:] > grey[:, :-1]).reshape(-1))
    values: dict[str, object] = {
        "image": data,
        "filename": path.rsplit("/", 1)[-1],
        "label": label,
        "split": split,
        "path": path,
        "width": image.width,
        "height": image.height,
        "format": "PNG",
        "sha256": hashlib.sha256(data).digest(),
        "pixel_digest": digest,
        "perceptual_hash": int.from_bytes(bits.tobytes(), "big"),
        "size": len(data),
        "mtime": 0,
        "channel_sum": pixels.sum(axis=(0, 1)).tolist(),
        "channel_square_sum": (pixels**2).sum(axis=(0, 1)).tolist(),
        IMAGE_DIGEST: int(image_digests([data])[0]),
        ROW_DIGEST: 0,
    }
    return values
