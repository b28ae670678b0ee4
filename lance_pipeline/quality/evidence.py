"""Pictures of the images in a list from :mod:`lance_pipeline.quality.findings`."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import pyarrow as pa
from PIL import Image, ImageDraw

from lance_pipeline.imaging.thumbnails import SIDE, caption_font, fit_text, jpeg, thumbnail
from lance_pipeline.storage.lance_split import LanceSplit

MAX_BYTES = 40_000
"""The maximum size of a sheet, which is compressed until it fits."""

_LINE = 16
_GAP = 16
_SEAM = 4
_COLUMNS = 8
_PAPER, _INK, _ALARM = (255, 255, 255), (60, 60, 60), (190, 30, 30)
_FONT_SIZE = 11


class _Tile(NamedTuple):
    split: str
    label: str
    path: str
    row: int


def evidence_sheet(rows: pa.Table, splits: Mapping[str, LanceSplit], count: int = 8) -> bytes:
    """A JPEG of up to ``count`` examples, spread evenly over a list, of at most ``MAX_BYTES`` bytes.

    Pairs are shown side by side, with their labels in red if they differ. Below each image are its split and label, and
    its file name. Only the images shown are read.

    Args:
        rows: a list with the columns split, label, path and row; a list of pairs also has other_row.
        splits: the splits that the list was made from, by the names in its column split, at the same versions.
        count: the maximum number of examples, at least 1.

    Raises:
        ValueError: the list is empty.
    """
    if not len(rows):
        raise ValueError("the list is empty, so there are no examples")
    count = min(count, len(rows))
    chosen = rows.take([number * len(rows) // count for number in range(count)])
    sides = ["", "other_"] if "other_row" in rows.column_names else [""]
    examples = list(zip(*(_tiles(chosen, side) for side in sides), strict=True))
    return _small_jpeg(_sheet(examples, _images({tile for example in examples for tile in example}, splits)))


def _tiles(rows: pa.Table, side: str) -> list[_Tile]:
    columns = (rows[side + name].to_pylist() for name in _Tile._fields)
    return [_Tile(*values) for values in zip(*columns, strict=True)]


def _images(tiles: Iterable[_Tile], splits: Mapping[str, LanceSplit]) -> dict[_Tile, Image.Image]:
    """The thumbnail of each tile, with one read per split."""
    images = {}
    for split in sorted({tile.split for tile in tiles}):
        wanted = [tile for tile in tiles if tile.split == split]
        data = splits[split].take([tile.row for tile in wanted], ["image"])["image"]
        rule = splits[split].transparency
        images |= {tile: thumbnail(value.as_py(), rule) for tile, value in zip(wanted, data, strict=True)}
    return images


def _sheet(examples: list[tuple[_Tile, ...]], images: dict[_Tile, Image.Image]) -> Image.Image:
    tiles = len(examples[0])
    width, height = tiles * (SIDE + _SEAM) - _SEAM + _GAP, SIDE + 2 * _LINE + _GAP
    columns = min(_COLUMNS // tiles, len(examples))
    lines = -(-len(examples) // columns)
    sheet = Image.new("RGB", (columns * width + _GAP, lines * height + _GAP), _PAPER)
    for number, example in enumerate(examples):
        y, x = _GAP + number // columns * height, _GAP + number % columns * width
        colour = _INK if len({tile.label for tile in example}) == 1 else _ALARM
        for place, tile in enumerate(example):
            corner = x + place * (SIDE + _SEAM), y
            sheet.paste(images[tile], corner)
            _write_caption(sheet, tile, corner, colour)
    return sheet


def _write_caption(sheet: Image.Image, tile: _Tile, corner: tuple[int, int], colour: tuple[int, int, int]) -> None:
    draw, font, (x, y) = ImageDraw.Draw(sheet), caption_font(_FONT_SIZE), corner
    draw.text((x, y + SIDE + 2), fit_text(f"{tile.split} · {tile.label}", font, SIDE), colour, font)
    # Long file names are shortened at the start, because they differ at the end.
    name = fit_text(tile.path.rsplit("/", 1)[-1][::-1], font, SIDE)[::-1]
    draw.text((x, y + SIDE + _LINE), name, _INK, font)


def _small_jpeg(sheet: Image.Image) -> bytes:
    """The sheet at the best quality that fits into ``MAX_BYTES``."""
    data = b""
    for quality in (90, 80, 65, 45, 25, 10, 1):
        data = jpeg(sheet, quality)
        if len(data) <= MAX_BYTES:
            break
    return data
