"""Pictures of a split, as encoded bytes."""

import io
import math
from collections.abc import Mapping
from typing import NamedTuple

from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from lance_pipeline.display import printable
from lance_pipeline.imaging.thumbnails import Sample, caption_font, fit_text, jpeg, rows_of_each_class, samples
from lance_pipeline.storage.lance_split import LanceSplit

_SAMPLES, _FEW_SAMPLES = 96, 24
_THUMBNAIL = 80
_COLUMNS = 8
_GAP, _LINE = 6, 20
_FONT_SIZE = 11
_PAPER, _INK = (255, 255, 255), (60, 60, 60)
_LONGEST_LABEL = 20
# Enough colours for one colour map and antialiased text.
_PALETTE = 256


class SplitPictures(NamedTuple):
    """Pictures of a split.

    Attributes:
        samples: up to 96 images, balanced over the classes.
        contact_sheet: a JPEG of up to 24 of them.
        classes: a PNG bar chart of images per class.
    """

    samples: list[Sample]
    contact_sheet: bytes
    classes: bytes


def split_pictures(split: LanceSplit, counts: Mapping[str, int], title: str) -> SplitPictures:
    """Draw the pictures of a split.

    Args:
        split: the split.
        counts: its images per class.
        title: of the bar chart.

    Raises:
        DamagedError: an image has changed since it was ingested.
    """
    shown, few = samples(split, rows_of_each_class(split, _SAMPLES)), set(rows_of_each_class(split, _FEW_SAMPLES))
    sheet = contact_sheet([one for one in shown if one.row in few])
    return SplitPictures(shown, sheet, class_counts_picture(counts, title))


def contact_sheet(shown: list[Sample]) -> bytes:
    """A JPEG of thumbnails with their labels below."""
    width, height = _THUMBNAIL + _GAP, _THUMBNAIL + _LINE
    columns = min(_COLUMNS, max(len(shown), 1))
    sheet = Image.new("RGB", (columns * width, max(math.ceil(len(shown) / columns), 1) * height), _PAPER)
    draw, font = ImageDraw.Draw(sheet), caption_font(_FONT_SIZE)
    for position, one in enumerate(shown):
        x, y = position % columns * width, position // columns * height
        method = Image.Resampling.BILINEAR
        sheet.paste(one.image.resize((_THUMBNAIL, _THUMBNAIL), method), (x, y))
        draw.text((x, y + _THUMBNAIL), fit_text(one.label, font, _THUMBNAIL), _INK, font)
    return jpeg(sheet)


def class_counts_picture(counts: Mapping[str, int], title: str) -> bytes:
    """A PNG bar chart of images per class; with many classes, the bars are not named."""
    figure = Figure(figsize=(7, 2.6), layout="constrained")
    axes = figure.subplots()
    axes.bar(range(len(counts)), list(counts.values()), color="#4c78a8")
    axes.set_ylabel("images")
    axes.set_title(title, parse_math=False)
    if len(counts) <= 30:
        names = [shortened(label) for label in counts]
        tilted = max(map(len, names)) > 3
        axes.set_xticks(range(len(counts)), names, parse_math=False)
        if tilted:
            axes.tick_params(axis="x", labelrotation=45)
            for text in axes.get_xticklabels():
                text.set(ha="right", rotation_mode="anchor")
    else:
        axes.set_xlabel(f"{len(counts)} classes, in the order of their index")
    axes.spines[["top", "right"]].set_visible(False)
    return figure_png(figure)


def shortened(label: str) -> str:
    """The label, shortened to fit beside a plot."""
    label = printable(label)
    return label if len(label) <= _LONGEST_LABEL else f"{label[: _LONGEST_LABEL - 1]}…"


def figure_png(figure: Figure) -> bytes:
    """The figure as a PNG with a palette, which takes less than half the bytes."""
    drawn, buffer = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=80)
    Image.open(drawn).convert("RGB").quantize(_PALETTE, Image.Quantize.MAXCOVERAGE).save(buffer, "PNG")
    return buffer.getvalue()
