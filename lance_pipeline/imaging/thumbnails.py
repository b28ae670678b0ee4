"""Thumbnails, and samples of a split."""

import io
import os
from typing import NamedTuple

import numpy as np
from matplotlib import get_data_path
from PIL import Image, ImageFont, ImageOps

from lance_pipeline.display import printable
from lance_pipeline.imaging.decoding import decode_rgb
from lance_pipeline.storage.lance_split import LanceSplit
from lance_pipeline.storage.transparency import Transparency

SIDE = 112
"""Side of a thumbnail's square, in pixels."""
_FRAME = (236, 236, 236)
# The font of the plots, which comes with matplotlib and has more letters than Pillow's own.
_FONT = os.path.join(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
_QUALITY = 85


class Sample(NamedTuple):
    """An image of a split, as a thumbnail."""

    row: int
    label: str
    path: str
    image: Image.Image


def thumbnail(data: bytes, transparency: Transparency, side: int = SIDE) -> Image.Image:
    """The image padded to a square; small images are enlarged without smoothing, to show what the model sees."""
    image = decode_rgb(data, transparency)
    method = Image.Resampling.NEAREST if max(image.size) < side else Image.Resampling.BILINEAR
    return ImageOps.pad(image, (side, side), method, color=_FRAME)


def jpeg(image: Image.Image, quality: int = _QUALITY) -> bytes:
    """The picture as a JPEG file."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def rows_of_each_class(split: LanceSplit, count: int) -> list[int]:
    """The positions of up to ``count`` rows, balanced over the classes as far as possible, in class order.

    Because rows are stored in random order, those of a class are a random sample. If there are more classes than
    ``count``, each of the first ones has one row.
    """
    labels = split.to_table(["label"])["label"].combine_chunks()
    classes = {label: number for number, label in enumerate(split.classes)}
    known = labels.dictionary_encode()
    numbers = np.array([classes.get(label, len(classes)) for label in known.dictionary.to_pylist()], np.int64)
    number = numbers[known.indices.to_numpy()] if len(labels) else np.empty(0, np.int64)
    by_class = np.argsort(number, kind="stable")
    ordered = number[by_class]
    rank = np.arange(len(ordered)) - np.searchsorted(ordered, ordered)
    chosen = np.sort(np.lexsort((ordered, rank))[:count])
    return by_class[chosen].tolist()


def samples(split: LanceSplit, rows: list[int]) -> list[Sample]:
    """The images of these rows.

    Raises:
        DamagedError: an image has changed since it was ingested.
    """
    found = split.take(rows, ["label", "path", "image"]) if rows else None
    if found is None:
        return []
    columns = (found[name].to_pylist() for name in ("label", "path", "image"))
    rule = split.transparency
    return [
        Sample(row, label, path, thumbnail(data, rule)) for row, label, path, data in zip(rows, *columns, strict=True)
    ]


def caption_font(size: int) -> ImageFont.FreeTypeFont:
    """The font of captions, in pixels."""
    return ImageFont.truetype(_FONT, size)


def fit_text(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """The printable text, cut to fit ``width`` pixels."""
    text = printable(text)
    if font.getlength(text) <= width:
        return text
    # A letter is at least one pixel wide.
    return next(
        (short for end in range(width, 0, -1) if font.getlength(short := f"{text[:end]}…") <= width),
        "…",
    )
