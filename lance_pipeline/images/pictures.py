"""Pictures of a split for people, as encoded bytes."""

import io
import math

from matplotlib.figure import Figure
from PIL import Image, ImageOps

from lance_pipeline.display import printable
from lance_pipeline.images.decoding import decode_rgb
from lance_pipeline.images.split import LanceSplit

_THUMBNAIL = 80
_COLUMNS = 8
_GAP = 2
_LONGEST_LABEL = 20
_GAP_COLOUR = (128, 128, 128)
# Enough for the shades of one colour map and the edges of letters.
_PALETTE = 256


def contact_sheet(split: LanceSplit, count: int = 24) -> bytes:
    """A JPEG of up to ``count`` thumbnails, taken from rows spread evenly over the split.

    As rows are stored in random order, they are a random sample.
    """
    rows = len(split)
    numbers = [number * rows // min(count, rows) for number in range(min(count, rows))]
    images = split.take(numbers, ["image"])["image"]
    step = _THUMBNAIL + _GAP
    sheet = Image.new("RGB", (_COLUMNS * step, math.ceil(len(numbers) / _COLUMNS) * step), _GAP_COLOUR)
    for position, data in enumerate(images):
        # Small images are enlarged pixel by pixel, so that one sees what the model gets.
        thumbnail = decode_rgb(data.as_py(), split.transparency)
        enlarge = max(thumbnail.size) < _THUMBNAIL
        method = Image.Resampling.NEAREST if enlarge else Image.Resampling.BILINEAR
        thumbnail = ImageOps.contain(thumbnail, (_THUMBNAIL, _THUMBNAIL), method)
        sheet.paste(thumbnail, (position % _COLUMNS * step, position // _COLUMNS * step))
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def class_counts_picture(counts: dict[str, int], title: str) -> bytes:
    """A PNG of a bar for each class; of many classes the bars stand without names."""
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
    """The label as it fits beside a plot."""
    label = printable(label)
    return label if len(label) <= _LONGEST_LABEL else f"{label[: _LONGEST_LABEL - 1]}…"


def figure_png(figure: Figure) -> bytes:
    """The figure as a PNG file, with a palette, which takes less than half the bytes."""
    drawn, buffer = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=80)
    Image.open(drawn).convert("RGB").quantize(_PALETTE, Image.Quantize.MAXCOVERAGE).save(buffer, "PNG")
    return buffer.getvalue()
