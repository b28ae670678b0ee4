"""Finds problems with the images of a split: duplicates, leakage, label conflicts, class balance and odd sizes.

All functions work on an index, a table with one row per image, without the image bytes. The results are tables with one
row for each image at fault, so the number of rows is the number of such images, however large a group of copies is. If
an image is at fault because of another one, the row is the pair of both.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import csv

from lance_pipeline.display import csv_cell
from lance_pipeline.errors import InputError
from lance_pipeline.quality.near_duplicates import (
    Hashes,
    Positions,
    earlier_lookalikes,
    lookalikes_among,
)
from lance_pipeline.storage.columns import positions
from lance_pipeline.storage.lance_split import LanceSplit
from lance_pipeline.storage.whole_files import whole_file

NEAR_BITS = 4
"""Images look alike if their 64-bit perceptual hashes differ in at most this many bits: re-encoded, resized, edited."""
SIDE_FACTOR = 4.0
"""An image is odd if its side is more than this many times smaller or larger than the split's median side."""
ASPECT_FACTOR = 3.0
"""An image is odd if its aspect ratio is more than this many times smaller or larger than the split's median."""

PLAIN_DEVIATION = 3.0
"""An image is plain if no channel's standard deviation over its pixels reaches this many of 255 levels.

Compression artefacts and the noise of a lens cap stay below it; the faintest pencil drawing does not.
"""

_COLUMNS = ["label", "path", "width", "height", "pixel_digest", "perceptual_hash"]
_SUMS = ["channel_sum", "channel_square_sum"]
_NAMES = ["split", "label", "path"]


def image_index(splits: Mapping[str, LanceSplit]) -> pa.Table:
    """The index of the images of the splits, one split after the other, in memory: some 100 bytes per image.

    The columns: split (the key in ``splits``), label, path, width and height in pixels, pixel_digest, perceptual_hash,
    deviation (the largest standard deviation of a channel over the image's pixels, 0 to 127.5), and row, the image's
    row number in its dataset.
    """
    parts = []
    for name, split in splits.items():
        table = split.to_table([*_COLUMNS, *_SUMS]).replace_schema_metadata()
        table = table.append_column("deviation", pa.array(_deviation(table))).drop(_SUMS)
        table = table.add_column(0, "split", pa.repeat(name, len(table)))
        parts.append(table.append_column("row", pa.array(np.arange(len(table)))))
    return pa.concat_tables(parts)


def duplicates(index: pa.Table) -> pa.Table:
    """The surplus copies: each image with the same pixels as an earlier one, paired with the first that has them.

    Without them, no two images have the same pixels. Pairs as from :func:`leakage`.
    """
    first = _first_of_same_pixels(index)
    surplus = np.flatnonzero(first < np.arange(len(index)))
    return _pairs(index, surplus, index, first[surplus])


def leakage(index: pa.Table, other: pa.Table) -> pa.Table:
    """The images with the same pixels as one of another split, each paired with the first such image there.

    Returns:
        The columns split, label, path, other_split, other_label, other_path, row and other_row.
    """
    counterpart = _same_pixels_in(index, other)
    leaked = np.flatnonzero(counterpart >= 0)
    return _pairs(index, leaked, other, counterpart[leaked])


def label_conflicts(index: pa.Table) -> pa.Table:
    """The images with the pixels of an earlier one but another label, each paired with the first with these pixels.

    Within one split, or across splits if the index has several. Pairs as from :func:`leakage`.
    """
    repeated = duplicates(index)
    return repeated.filter(pc.field("label") != pc.field("other_label"))


def near_duplicates(index: pa.Table, distance: int = NEAR_BITS) -> pa.Table:
    """The images that look like an earlier one, each paired with one of those; exact copies are omitted.

    Images look alike if their perceptual hashes differ in at most ``distance`` of 64 bits. Without the listed images,
    no two images look alike. All images of a single colour look alike, whatever the colour.

    Returns:
        Pairs as from :func:`leakage`, and the column bits: the number of bits in which the hashes differ.
    """
    originals = np.flatnonzero(_first_of_same_pixels(index) == np.arange(len(index)))
    earlier = earlier_lookalikes(_hashes(index)[originals], distance)
    found = earlier >= 0
    return _near_pairs(index, originals[found], index, originals[earlier[found]])


def near_leakage(index: pa.Table, other: pa.Table, distance: int = NEAR_BITS) -> pa.Table:
    """The images that look like one of another split, each paired with one of those; :func:`leakage` is omitted.

    Returns:
        Pairs as from :func:`near_duplicates`.
    """
    kept = np.flatnonzero(_same_pixels_in(index, other) < 0)
    alike = lookalikes_among(_hashes(index)[kept], _hashes(other), distance)
    found = alike >= 0
    return _near_pairs(index, kept[found], other, alike[found])


def class_counts(index: pa.Table, classes: Iterable[str] = ()) -> pa.Table:
    """The number of images of each class, the largest class first; ``classes`` adds classes without images.

    Returns:
        The columns label, count and share (0 to 1).
    """
    found = index.group_by("label").aggregate([([], "count_all")])
    counts = dict.fromkeys(classes, 0) | dict(zip(*(column.to_pylist() for column in found.columns), strict=True))
    rows = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return pa.table(
        {
            "label": pa.array([label for label, _ in rows], pa.string()),
            "count": pa.array([count for _, count in rows], pa.int64()),
            "share": pa.array([count / max(len(index), 1) for _, count in rows], pa.float64()),
        }
    )


def imbalance(counts: pa.Table) -> float:
    """The ratio of the largest class to the smallest, given the :func:`class_counts`.

    1 for a single class or none; infinite if a class has no image.
    """
    sizes = counts["count"].to_pylist()
    if len(sizes) < 2 or not max(sizes):
        return 1.0
    return max(sizes) / min(sizes) if min(sizes) else float("inf")


def small_classes(counts: pa.Table, minimum: int) -> pa.Table:
    """The rows of the :func:`class_counts` with fewer than ``minimum`` images."""
    return counts.filter(pc.field("count") < minimum)


def odd_sizes(index: pa.Table) -> pa.Table:
    """The images whose size or shape is far from the median of the index, which should be of one split.

    An image's side is the square root of width times height, its aspect ratio width / height. A side is odd if it is
    less than 1 / ``SIDE_FACTOR`` of the median or more than ``SIDE_FACTOR`` times the median; likewise the aspect ratio
    with ``ASPECT_FACTOR``. Medians are robust while fewer than half of the images are odd.

    Returns:
        The columns split, label, path, oddity (small, large, narrow or wide), width, height and row.
    """
    width, height = (index[name].to_numpy().astype(float) for name in ("width", "height"))
    side = _relative_to_median(np.sqrt(width * height))
    aspect = _relative_to_median(width / np.maximum(height, 1))
    conditions = [side * SIDE_FACTOR < 1, side > SIDE_FACTOR, aspect * ASPECT_FACTOR < 1, aspect > ASPECT_FACTOR]
    oddity = pa.array(np.select(conditions, ["small", "large", "narrow", "wide"], ""), pa.string())
    table = index.select([*_NAMES, "width", "height", "row"]).add_column(len(_NAMES), "oddity", oddity)
    return table.filter(pc.field("oddity") != "")


def plain_images(index: pa.Table, deviation: float = PLAIN_DEVIATION) -> pa.Table:
    """The images of a single colour, or nearly so: no channel deviates by ``deviation`` or more.

    Returns:
        The columns split, label, path, deviation and row.
    """
    return index.filter(pc.field("deviation") < deviation).select([*_NAMES, "deviation", "row"])


def smaller_images(index: pa.Table, image_size: int) -> pa.Table:
    """The images whose shorter side has fewer than ``image_size`` pixels, so that a model's input enlarges them.

    Returns:
        The columns split, label, path, width, height and row.
    """
    smaller = (pc.field("width") < image_size) | (pc.field("height") < image_size)
    return index.filter(smaller).select([*_NAMES, "width", "height", "row"])


def write_csv(rows: pa.Table, path: str) -> None:
    """Write all rows as a CSV file in UTF-8, whole or not at all; creates the folder.

    Text is quoted, numbers are not. Names are escaped with :func:`lance_pipeline.display.csv_cell`, so that no
    spreadsheet runs them as a formula; ``from_csv_cell`` reverses that. To read labels such as 007 or NA unchanged, use
    ``pandas.read_csv(path, dtype={"label": str}, keep_default_na=False)``.

    Raises:
        InputError: the file cannot be written.
    """
    try:
        with whole_file(path, shared=True) as work:
            csv.write_csv(_as_cells(rows), work)
    except OSError as error:
        raise InputError(
            f"cannot write the list {path}: {error}. Free some space, or move all data with LANCE_PIPELINE_DATA."
        ) from error


def _as_cells(rows: pa.Table) -> pa.Table:
    columns = [
        pa.array(map(csv_cell, column.to_pylist()), pa.string()) if pa.types.is_string(column.type) else column
        for column in rows.columns
    ]
    return pa.table(columns, rows.column_names)


def _first_of_same_pixels(index: pa.Table) -> Positions:
    return positions(index["pixel_digest"], index["pixel_digest"])


def _same_pixels_in(index: pa.Table, other: pa.Table) -> Positions:
    """For each image, the position in ``other`` of the first image with the same pixels, or -1."""
    return positions(index["pixel_digest"], other["pixel_digest"])


def _hashes(index: pa.Table) -> Hashes:
    return index["perceptual_hash"].to_numpy()


def _deviation(table: pa.Table) -> NDArray[np.float32]:
    """For each image, the largest standard deviation of a channel over its pixels."""
    pixels = (table["width"].to_numpy().astype(np.float64) * table["height"].to_numpy())[:, None]
    sums, squares = (table[name].combine_chunks().flatten().to_numpy().reshape(-1, 3) for name in _SUMS)
    variance = np.maximum(squares / pixels - (sums / pixels) ** 2, 0)
    return np.sqrt(variance).max(axis=1, initial=0).astype(np.float32)


def _relative_to_median(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values / np.median(values) if len(values) else values


def _pairs(index: pa.Table, positions: Positions, other: pa.Table, counterparts: Positions) -> pa.Table:
    """Pairs of the images at ``positions`` in one index and those at ``counterparts`` in another."""
    left = index.select([*_NAMES, "row"]).take(positions)
    right = other.select([*_NAMES, "row"]).take(counterparts)
    right = right.rename_columns([f"other_{name}" for name in right.column_names])
    for name in right.column_names:
        left = left.append_column(name, right[name])
    return left.select([*_NAMES, *(f"other_{name}" for name in _NAMES), "row", "other_row"])


def _near_pairs(index: pa.Table, positions: Positions, other: pa.Table, counterparts: Positions) -> pa.Table:
    bits = np.bitwise_count(_hashes(index)[positions] ^ _hashes(other)[counterparts])
    return _pairs(index, positions, other, counterparts).append_column("bits", pa.array(bits))
