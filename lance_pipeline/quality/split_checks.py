"""The checks of a split, which a data scientist wants before training on it.

Heavy libraries are imported where a check runs, so that its name and description are available without them.
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
    """Limits of the checks of Lance datasets, and what a failure does."""

    leakage: Literal["warn", "fail"] = Field(
        default="warn",
        description="What happens if the same image, pixel by pixel, is in two splits: a warning, or a failure before "
        "anything is trained on it.",
    )
    min_images_per_class: int = Field(default=10, ge=1, description="Warn of classes with fewer images.")
    max_class_ratio: float = Field(
        default=10,
        ge=1,
        description="Warn if the largest class has more than this many times as many images as the smallest.",
    )
    plain_deviation: float = Field(
        default=3,
        ge=0,
        description="Images count as a single colour if no channel deviates by this many of 255 levels (standard "
        "deviation over the pixels); 0 disables the check.",
    )
    near_duplicate_bits: int = Field(
        default=4, ge=0, le=10, description="Images are near-duplicates if at most this many of 64 hash bits differ."
    )


@dataclass(frozen=True)
class FileCounts:
    """The counts of a split's files, as its ingest reported them, and the quarantine that lists the rejected ones."""

    scanned: int
    rows: int
    rejected: int
    quarantine_uri: str
    quarantine_version: int


@dataclass(frozen=True)
class CheckTarget:
    """A split to check, and the other splits of its dataset.

    Attributes:
        name: the name of the split.
        splits: the existing splits of the dataset, by their names.
        files: the counts of the split's files.
        counts: the number of images of each class.
        image_size: height and width of the images that the model gets, in pixels.
        settings: the settings of the checks.
    """

    name: str
    splits: "Mapping[str, LanceSplit]"
    files: FileCounts
    counts: Mapping[str, int]
    image_size: int
    settings: CheckSettings

    @property
    def split(self) -> "LanceSplit":
        """The Lance dataset of the split."""
        return self.splits[self.name]

    @cached_property
    def index(self) -> "pa.Table":
        """The index of this split: a row per image, without the image bytes."""
        from lance_pipeline.quality.findings import image_index

        return image_index({self.name: self.split})

    @cached_property
    def other_indices(self) -> "list[pa.Table]":
        """The index of each other split."""
        from lance_pipeline.quality.findings import image_index

        return [image_index({name: split}) for name, split in self.splits.items() if name != self.name]


@dataclass(frozen=True)
class Finding:
    """The finding of a check: ``rows`` lists everything at fault, ``numbers`` summarises it.

    Constants, such as a limit, are given as text, because pages plot numbers over time.
    """

    passed: bool
    rows: "pa.Table | None" = None
    numbers: dict[str, Any] = field(default_factory=dict)
    pictured: bool = True
    """Whether the rows are images, of which examples are shown."""


@dataclass(frozen=True)
class SplitCheck:
    """A check that runs on every split."""

    name: str
    description: str
    find: Callable[[CheckTarget], Finding]
    blocks: Callable[[CheckSettings], bool] = lambda settings: False


def _counts_reconcile(target: CheckTarget) -> Finding:
    from lance_pipeline.storage.tables import open_table

    files = target.files
    rows = len(target.split)
    rejected = open_table(files.quarantine_uri, files.quarantine_version).count_rows()
    return Finding(
        passed=files.scanned == rows + rejected == files.rows + files.rejected,
        numbers={"scanned": files.scanned, "rows": rows, "rejected": rejected},
    )


def _schema(target: CheckTarget) -> Finding:
    from lance_pipeline.imaging.derived_columns import split_schema

    found = {column.name: str(column.type) for column in target.split.dataset.schema}
    expected = {column.name: str(column.type) for column in split_schema()}
    wrong = [name for name in expected if expected[name] != found.get(name)]
    foreign = [name for name in found if name not in expected]
    numbers = {"missing_or_changed": ", ".join(wrong), "of_other_tools": ", ".join(foreign)}
    return Finding(not wrong, numbers={"columns": count(len(found))} | numbers)


def _same_classes(target: CheckTarget) -> Finding:
    missing = [label for label, count in target.counts.items() if not count]
    return Finding(not missing, numbers={"classes": count(len(target.counts)), "missing": ", ".join(missing)})


def _leakage(target: CheckTarget) -> Finding:
    from lance_pipeline.quality.findings import leakage

    pairs = [leakage(target.index, other) for other in target.other_indices]
    return images_at_fault(pairs, target)


def _exact_duplicates(target: CheckTarget) -> Finding:
    from lance_pipeline.quality.findings import duplicates

    return images_at_fault([duplicates(target.index)], target)


def _label_conflicts(target: CheckTarget) -> Finding:
    import pyarrow as pa
    import pyarrow.compute as pc

    from lance_pipeline.quality.findings import label_conflicts

    pairs = label_conflicts(pa.concat_tables([target.index, *target.other_indices]))
    mine = (pc.field("split") == target.name) | (pc.field("other_split") == target.name)
    return images_at_fault([pairs.filter(mine)], target)


def _near_duplicates(target: CheckTarget) -> Finding:
    from lance_pipeline.quality.findings import near_duplicates

    return images_at_fault([near_duplicates(target.index, target.settings.near_duplicate_bits)], target)


def _near_leakage(target: CheckTarget) -> Finding:
    from lance_pipeline.quality.findings import near_leakage

    bits = target.settings.near_duplicate_bits
    return images_at_fault([near_leakage(target.index, other, bits) for other in target.other_indices], target)


def _odd_sizes(target: CheckTarget) -> Finding:
    from lance_pipeline.quality.findings import odd_sizes, smaller_images

    finding = images_at_fault([odd_sizes(target.index)], target)
    smaller = len(smaller_images(target.index, target.image_size))
    return Finding(finding.passed, finding.rows, finding.numbers | {"smaller_than_image_size": smaller})


def _plain_images(target: CheckTarget) -> Finding:
    from lance_pipeline.quality.findings import plain_images

    return images_at_fault([plain_images(target.index, target.settings.plain_deviation)], target)


def _class_balance(target: CheckTarget) -> Finding:
    from lance_pipeline.quality.findings import class_counts, imbalance

    counts = class_counts(target.index, target.counts)
    ratio, limit = imbalance(counts), target.settings.max_class_ratio
    shown = round(ratio, 2) if math.isfinite(ratio) else "infinite: a class has no images"
    numbers = {"largest_to_smallest_class": shown, "limit": f"{limit:g}"}
    return Finding(ratio <= limit, None if ratio <= limit else counts, numbers, pictured=False)


def _few_images(target: CheckTarget) -> Finding:
    from lance_pipeline.quality.findings import class_counts, small_classes

    minimum = target.settings.min_images_per_class
    small = small_classes(class_counts(target.index, target.counts), minimum)
    return Finding(not len(small), small, {"classes": len(small), "limit": count(minimum)}, pictured=False)


def images_at_fault(tables: "list[pa.Table]", target: CheckTarget) -> Finding:
    """The finding of a check that lists images: passed if no table has a row.

    Args:
        tables: rows of ``target.index``, or pairs of them as of :func:`lance_pipeline.quality.findings.duplicates`.
        target: the split.
    """
    import pyarrow as pa

    rows = pa.concat_tables(tables) if tables else None
    # An image that is in two other splits has two rows.
    images = len(rows.group_by(["split", "row"]).aggregate([])) if rows is not None else 0
    return Finding(not images, rows, {"images": images, "share": percent(images / max(len(target.index), 1))})


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
        "No image is also in another split, pixel by pixel.",
        _leakage,
        lambda settings: settings.leakage == "fail",
    ),
    SplitCheck("near_leakage", "No image looks like one of another split, by perceptual hash.", _near_leakage),
    SplitCheck("exact_duplicates", "No image is twice in the split, pixel by pixel.", _exact_duplicates),
    SplitCheck("near_duplicates", "No image of the split looks like another, by perceptual hash.", _near_duplicates),
    SplitCheck("label_conflicts", "No image has two labels, within or across splits.", _label_conflicts),
    SplitCheck("class_balance", "The largest class is not disproportionate to the smallest.", _class_balance),
    SplitCheck("few_images", "Every class has enough images.", _few_images),
    SplitCheck("plain_images", "No image is of a single colour, or nearly so.", _plain_images),
    SplitCheck("odd_sizes", "No image is far larger, smaller, wider or narrower than usual.", _odd_sizes),
)
