"""The checks of a split: what a data scientist asks before training on it.

The heavy libraries are imported where a check is answered, so that its name and description are known without them.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from lance_pipeline.display import count, percent
from lance_pipeline.settings import StrictModel

if TYPE_CHECKING:
    import pyarrow as pa

    from lance_pipeline.storage.lance_split import LanceSplit


class CheckSettings(StrictModel):
    """What the checks of the Lance datasets warn of, or stop at."""

    leakage: Literal["warn", "fail"] = Field(
        default="warn",
        description="What happens when an image, pixel by pixel, is in two splits: a warning, or a failure before "
        "anything is trained on it.",
    )
    min_images_per_class: int = Field(default=10, ge=1, description="Classes with fewer images are warned of.")
    max_class_ratio: float = Field(
        default=10, ge=1, description="Warn when the largest class has more than so many times the smallest's images."
    )
    plain_deviation: float = Field(
        default=3,
        ge=0,
        description="Images are of a single colour when no channel deviates by so many of 255 levels (standard "
        "deviation over the pixels); 0 does not ask.",
    )
    near_duplicate_bits: int = Field(
        default=4, ge=0, le=10, description="Images are near-duplicates when so few of 64 hash bits differ."
    )


@dataclass(frozen=True)
class FileCounts:
    """What became of a split's files, as its ingest reported it, and where the rejected ones are listed."""

    scanned: int
    rows: int
    rejected: int
    quarantine_uri: str
    quarantine_version: int


@dataclass(frozen=True)
class Examined:
    """A split to be checked, and the splits beside it.

    Attributes:
        name: of the split.
        splits: of the data set, as far as they exist, by their names.
        files: what became of the split's files.
        counts: its images per class.
        image_size: height and width at which the model sees the images, in pixels.
        settings: of the checks.
    """

    name: str
    splits: "Mapping[str, LanceSplit]"
    files: FileCounts
    counts: Mapping[str, int]
    image_size: int
    settings: CheckSettings

    @property
    def split(self) -> "LanceSplit":
        """The split itself."""
        return self.splits[self.name]

    @cached_property
    def index(self) -> "pa.Table":
        """A row an image of this split, without its bytes."""
        from lance_pipeline.quality.findings import image_index

        return image_index({self.name: self.split})

    @cached_property
    def other_indices(self) -> "list[pa.Table]":
        """The same of each other split."""
        from lance_pipeline.quality.findings import image_index

        return [image_index({name: split}) for name, split in self.splits.items() if name != self.name]


@dataclass(frozen=True)
class Finding:
    """What a check found: ``rows`` lists all that is at fault, ``numbers`` sums it up.

    What is the same each time, such as a limit, is text: of numbers a page may draw a series.
    """

    passed: bool
    rows: "pa.Table | None" = None
    numbers: dict[str, Any] = field(default_factory=dict)
    pictured: bool = True
    """Whether the rows are images, of which a few are shown."""


@dataclass(frozen=True)
class SplitCheck:
    """A question about every split."""

    name: str
    description: str
    find: Callable[[Examined], Finding]
    blocks: Callable[[CheckSettings], bool] = lambda settings: False


def _counts_reconcile(examined: Examined) -> Finding:
    from lance_pipeline.storage.tables import open_table

    files = examined.files
    rows = len(examined.split)
    rejected = open_table(files.quarantine_uri, files.quarantine_version).count_rows()
    return Finding(
        passed=files.scanned == rows + rejected == files.rows + files.rejected,
        numbers={"scanned": files.scanned, "rows": rows, "rejected": rejected},
    )


def _schema(examined: Examined) -> Finding:
    from lance_pipeline.imaging.derived_columns import split_schema

    found = {column.name: str(column.type) for column in examined.split.dataset.schema}
    expected = {column.name: str(column.type) for column in split_schema()}
    wrong = [name for name in expected | found if expected.get(name) != found.get(name)]
    return Finding(not wrong, numbers={"columns": count(len(found)), "unexpected_or_missing": ", ".join(wrong)})


def _same_classes(examined: Examined) -> Finding:
    missing = [label for label, count in examined.counts.items() if not count]
    return Finding(not missing, numbers={"classes": count(len(examined.counts)), "missing": ", ".join(missing)})


def _leakage(examined: Examined) -> Finding:
    from lance_pipeline.quality.findings import leakage

    pairs = [leakage(examined.index, other) for other in examined.other_indices]
    return images_at_fault(pairs, examined)


def _exact_duplicates(examined: Examined) -> Finding:
    from lance_pipeline.quality.findings import duplicates

    return images_at_fault([duplicates(examined.index)], examined)


def _label_conflicts(examined: Examined) -> Finding:
    import pyarrow as pa
    import pyarrow.compute as pc

    from lance_pipeline.quality.findings import label_conflicts

    pairs = label_conflicts(pa.concat_tables([examined.index, *examined.other_indices]))
    mine = (pc.field("split") == examined.name) | (pc.field("other_split") == examined.name)
    return images_at_fault([pairs.filter(mine)], examined)


def _near_duplicates(examined: Examined) -> Finding:
    from lance_pipeline.quality.findings import near_duplicates

    return images_at_fault([near_duplicates(examined.index, examined.settings.near_duplicate_bits)], examined)


def _near_leakage(examined: Examined) -> Finding:
    from lance_pipeline.quality.findings import near_leakage

    bits = examined.settings.near_duplicate_bits
    return images_at_fault([near_leakage(examined.index, other, bits) for other in examined.other_indices], examined)


def _odd_sizes(examined: Examined) -> Finding:
    from lance_pipeline.quality.findings import odd_sizes, smaller_images

    finding = images_at_fault([odd_sizes(examined.index)], examined)
    smaller = len(smaller_images(examined.index, examined.image_size))
    return Finding(finding.passed, finding.rows, finding.numbers | {"smaller_than_image_size": smaller})


def _plain_images(examined: Examined) -> Finding:
    from lance_pipeline.quality.findings import plain_images

    return images_at_fault([plain_images(examined.index, examined.settings.plain_deviation)], examined)


def _class_balance(examined: Examined) -> Finding:
    from lance_pipeline.quality.findings import class_counts, imbalance

    counts = class_counts(examined.index, examined.counts)
    ratio, limit = imbalance(counts), examined.settings.max_class_ratio
    shown = round(ratio, 2) if math.isfinite(ratio) else "infinite: a class has no images"
    numbers = {"largest_to_smallest_class": shown, "limit": f"{limit:g}"}
    return Finding(ratio <= limit, None if ratio <= limit else counts, numbers, pictured=False)


def _few_images(examined: Examined) -> Finding:
    from lance_pipeline.quality.findings import class_counts, small_classes

    minimum = examined.settings.min_images_per_class
    small = small_classes(class_counts(examined.index, examined.counts), minimum)
    return Finding(not len(small), small, {"classes": len(small), "limit": count(minimum)}, pictured=False)


def images_at_fault(tables: "list[pa.Table]", examined: Examined) -> Finding:
    """The finding of a check that lists images: passed if no table has a row.

    Args:
        tables: rows of ``examined.index``, or pairs of them as of :func:`lance_pipeline.quality.findings.duplicates`.
        examined: the split.
    """
    import pyarrow as pa

    rows = pa.concat_tables(tables) if tables else None
    # An image that is in two other splits stands in two rows.
    images = len(rows.group_by(["split", "row"]).aggregate([])) if rows is not None else 0
    return Finding(not images, rows, {"images": images, "share": percent(images / max(len(examined.index), 1))})


def _always(settings: CheckSettings) -> bool:
    del settings
    return True


SPLIT_CHECKS = (
    SplitCheck(
        "counts_reconcile", "Every file of the split is a row or in the quarantine.", _counts_reconcile, _always
    ),
    SplitCheck("schema", "The columns have the names and types that readers rely on.", _schema, _always),
    SplitCheck("same_classes", "Every class of train has images in this split too.", _same_classes, _always),
    SplitCheck(
        "leakage",
        "No image is, pixel by pixel, in another split too.",
        _leakage,
        lambda settings: settings.leakage == "fail",
    ),
    SplitCheck("near_leakage", "No image looks like one of another split, by perceptual hash.", _near_leakage),
    SplitCheck("exact_duplicates", "No image is in the split twice, pixel by pixel.", _exact_duplicates),
    SplitCheck("near_duplicates", "No image of the split looks like another, by perceptual hash.", _near_duplicates),
    SplitCheck("label_conflicts", "No pixels stand under two labels, in any of the splits.", _label_conflicts),
    SplitCheck("class_balance", "The largest class is not out of proportion to the smallest.", _class_balance),
    SplitCheck("few_images", "Every class has enough images.", _few_images),
    SplitCheck("plain_images", "No image is of a single colour, or nearly so.", _plain_images),
    SplitCheck("odd_sizes", "No image is far larger, smaller, wider or narrower than is usual.", _odd_sizes),
)
