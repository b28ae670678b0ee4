"""Pictures of the images that a list of :mod:`lance_pipeline.images.quality` names."""

import io
import os
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import pyarrow as pa
from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont, ImageOps

from lance_pipeline.display import printable
from lance_pipeline.images.decoding import decode_rgb
from lance_pipeline.images.split import LanceSplit
from lance_pipeline.images.transparency import Transparency

MAX_BYTES = 40_000
"""A sheet is compressed until it has no more bytes."""

_SIDE = 112
_LINE = 16
_GAP = 16
_SEAM = 4
_COLUMNS = 8
_PAPER, _FRAME, _INK, _ALARM = (255, 255, 255), (236, 236, 236), (60, 60, 60), (190, 30, 30)
# The font of the plots: it comes with matplotlib and knows more letters than Pillow's own.
_FONT = os.path.join(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
_FONT_SIZE = 11


class _Tile(NamedTuple):
    split: str
    label: str
    path: str
    row: int


def evidence_sheet(rows: pa.Table, splits: Mapping[str, LanceSplit], count: int = 8) -> bytes:
    """A JPEG of up to ``count`` examples of a list, spread evenly over it, of at most ``MAX_BYTES`` bytes.

    Pairs stand side by side, their labels in red where they differ. Below each image are its split and label, and its
    file's name. Only the images shown are read.

    Args:
        rows: a list with the columns split, label, path and row; pairs if it has other_row too.
        splits: those that the list was made from, by the names in its column split, at the same versions.
        count: the most examples, at least 1.

    Raises:
        ValueError: the list is empty.
    """
    if not len(rows):
        raise ValueError("an empty list has no examples")
    count = min(count, len(rows))
    chosen = rows.take([number * len(rows) // count for number in range(count)])
    sides = ["", "other_"] if "other_row" in rows.column_names else [""]
    examples = list(zip(*(_tiles(chosen, side) for side in sides), strict=True))
    return _small_jpeg(_sheet(examples, _images({tile for example in examples for tile in example}, splits)))


def _tiles(rows: pa.Table, side: str) -> list[_Tile]:
    columns = (rows[side + name].to_pylist() for name in _Tile._fields)
    return [_Tile(*values) for values in zip(*columns, strict=True)]


def _images(tiles: Iterable[_Tile], splits: Mapping[str, LanceSplit]) -> dict[_Tile, Image.Image]:
    """The thumbnail of each tile; one read a split."""
    images = {}
    for split in sorted({tile.split for tile in tiles}):
        wanted = [tile for tile in tiles if tile.split == split]
        data = splits[split].take([tile.row for tile in wanted], ["image"])["image"]
        rule = splits[split].transparency
        images |= {tile: _thumbnail(value.as_py(), rule) for tile, value in zip(wanted, data, strict=True)}
    return images


def _thumbnail(data: bytes, transparency: Transparency) -> Image.Image:
    """The image within a square; a small one is enlarged pixel by pixel, so that one sees what the model gets."""
    image = decode_rgb(data, transparency)
    method = Image.Resampling.NEAREST if max(image.size) < _SIDE else Image.Resampling.BILINEAR
    return ImageOps.pad(image, (_SIDE, _SIDE), method, color=_FRAME)


def _sheet(examples: list[tuple[_Tile, ...]], images: dict[_Tile, Image.Image]) -> Image.Image:
    tiles = len(examples[0])
    width, height = tiles * (_SIDE + _SEAM) - _SEAM + _GAP, _SIDE + 2 * _LINE + _GAP
    columns = min(_COLUMNS // tiles, len(examples))
    lines = -(-len(examples) // columns)
    sheet = Image.new("RGB", (columns * width + _GAP, lines * height + _GAP), _PAPER)
    for number, example in enumerate(examples):
        y, x = _GAP + number // columns * height, _GAP + number % columns * width
        colour = _INK if len({tile.label for tile in example}) == 1 else _ALARM
        for place, tile in enumerate(example):
            corner = x + place * (_SIDE + _SEAM), y
            sheet.paste(images[tile], corner)
            _write_caption(sheet, tile, corner, colour)
    return sheet


def _write_caption(sheet: Image.Image, tile: _Tile, corner: tuple[int, int], colour: tuple[int, int, int]) -> None:
    draw, font, (x, y) = ImageDraw.Draw(sheet), ImageFont.truetype(_FONT, _FONT_SIZE), corner
    draw.text((x, y + _SIDE + 2), _fitted(f"{tile.split} · {tile.label}", font), colour, font)
    # Of long names of files the ends differ.
    name = _fitted(tile.path.rsplit("/", 1)[-1][::-1], font)[::-1]
    draw.text((x, y + _SIDE + _LINE), name, _INK, font)


def _fitted(text: str, font: ImageFont.FreeTypeFont) -> str:
    """As much of the text's beginning as is as wide as a thumbnail."""
    text = printable(text)
    if font.getlength(text) <= _SIDE:
        return text
    # A thumbnail has no room for more letters than pixels.
    return next(
        (short for end in range(_SIDE, 0, -1) if font.getlength(short := f"{text[:end]}…") <= _SIDE),
        "…",
    )


def _small_jpeg(sheet: Image.Image) -> bytes:
    """The sheet in the best quality that fits into ``MAX_BYTES``."""
    for quality in (90, 80, 65, 45, 25, 10, 1):
        buffer = io.BytesIO()
        sheet.save(buffer, "JPEG", quality=quality)
        if buffer.tell() <= MAX_BYTES:
            break
    return buffer.getvalue()
