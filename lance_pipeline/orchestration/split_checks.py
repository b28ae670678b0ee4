"""The checks of a Lance split: what a data scientist asks before training on it."""

import logging
import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from lance_pipeline.display import count, percent, printable
from lance_pipeline.errors import InputError
from lance_pipeline.orchestration.attributes import Checks
from lance_pipeline.orchestration.metadata import picture, shown
from lance_pipeline.orchestration.records import Split

if TYPE_CHECKING:
    import pyarrow as pa

    from lance_pipeline.images import LanceSplit

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Examined:
    """A split to be checked, and the splits beside it."""

    name: str
    record: Split
    splits: "dict[str, LanceSplit]"
    """Of the dataset, as far as they exist."""
    image_size: int
    settings: Checks

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

    Of numbers Dagster draws a series; what is the same each time, such as a limit, is text.
    """

    passed: bool
    rows: "pa.Table | None" = None
    numbers: dict[str, Any] = field(default_factory=dict)
    pictured: bool = True
    """Whether the rows are images, of which a few are shown."""


@dataclass(frozen=True)
class SplitCheck:
    """A question put to every split."""

    name: str
    description: str
    find: Callable[[Examined], Finding]
    blocks: Callable[[Checks], bool] = lambda settings: False

    def spec(self, key: dg.AssetKey, settings: Checks) -> dg.AssetCheckSpec:
        """The check of the asset ``key``."""
        return dg.AssetCheckSpec(self.name, asset=key, description=self.description, blocking=self.blocks(settings))

    def result(self, examined: Examined, key: dg.AssetKey, reports: Path) -> dg.AssetCheckResult:
        """Ask, and write the full list to ``<reports>/<split>_<check>.csv`` where there is one."""
        finding = self.find(examined)
        if not finding.passed:
            # The step's log shows it.
            _logger.warning(printable(f"{examined.name}: {self.name}: {told(finding)}. Expected: {self.description}"))
        return dg.AssetCheckResult(
            asset_key=key,
            check_name=self.name,
            passed=finding.passed,
            severity=dg.AssetCheckSeverity.ERROR if self.blocks(examined.settings) else dg.AssetCheckSeverity.WARN,
            metadata=shown(
                finding.numbers | _evidence(finding, examined, reports / f"{examined.name}_{self.name}.csv")
            ),
        )


def told(finding: Finding) -> str:
    """How many are at fault, and the first of them."""
    numbers = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in finding.numbers.items() if value)
    if finding.rows is None or not finding.rows.num_rows:
        return numbers
    row = finding.rows.slice(0, 1).to_pylist()[0]
    if "path" not in row:
        return f"{numbers}; the first: {row['label']} with {row['count']} images"
    other = f" and {row['other_split']}/{row['other_path']}" if "other_path" in row else ""
    return f"{numbers}; the first: {row['split']}/{row['path']}{other}"


def check_results(
    examined: Examined, key: dg.AssetKey, reports: Path, names: Collection[str] | None = None
) -> Iterator[dg.AssetCheckResult]:
    """The results of the checks of these names on one split; of all checks when None.

    Raises:
        InputError: a list cannot be written.
    """
    for check in SPLIT_CHECKS:
        if names is None or check.name in names:
            yield check.result(examined, key, reports)


def blocking_failures(split: str, results: list[dg.AssetCheckResult]) -> list[str]:
    """The checks that block and have failed, a line each."""
    lines = []
    for one in results:
        if not one.passed and one.severity == dg.AssetCheckSeverity.ERROR:
            shown = {name: value.value for name, value in one.metadata.items() if name != "examples"}
            lines.append(f"{split}: {one.check_name}: " + ", ".join(f"{name} {value}" for name, value in shown.items()))
    return lines


def require_blocking(failures: list[str]) -> None:
    """Stop where a check that blocks has failed: what fails is never handed on.

    Raises:
        InputError: there are such failures.
    """
    if failures:
        raise InputError(
            [
                "Blocking checks failed:",
                *(f"  {failure}" for failure in failures),
                "Fix the folder, or set what a check stops at under `checks`.",
                "If another tool has changed the Lance dataset, delete it and materialize it again.",
            ]
        )


def _evidence(finding: Finding, examined: Examined, path: Path) -> dict[str, Any]:
    from lance_pipeline.quality.evidence import evidence_sheet
    from lance_pipeline.quality.findings import write_csv

    if finding.rows is None or not finding.rows.num_rows:
        path.unlink(missing_ok=True)
        return {}
    write_csv(finding.rows, str(path))
    evidence: dict[str, Any] = {"full_list": dg.MetadataValue.path(str(path))}
    if finding.pictured:
        evidence["examples"] = picture(evidence_sheet(finding.rows, examined.splits))
    return evidence


def _counts_reconcile(examined: Examined) -> Finding:
    from lance_pipeline.storage.tables import open_table

    record = examined.record
    rows = len(examined.split)
    rejected = open_table(record.quarantine.uri, record.quarantine.version).count_rows()
    return Finding(
        passed=record.scanned == rows + rejected == record.rows + record.rejected,
        numbers={"scanned": record.scanned, "rows": rows, "rejected": rejected},
    )


def _schema(examined: Examined) -> Finding:
    from lance_pipeline.storage.schema import SPLIT_SCHEMA

    found = {column.name: str(column.type) for column in examined.split.dataset.schema}
    expected = {column.name: str(column.type) for column in SPLIT_SCHEMA}
    wrong = [name for name in expected | found if expected.get(name) != found.get(name)]
    return Finding(not wrong, numbers={"columns": count(len(found)), "unexpected_or_missing": ", ".join(wrong)})


def _same_classes(examined: Examined) -> Finding:
    missing = [label for label, count in examined.record.counts.items() if not count]
    return Finding(not missing, numbers={"classes": count(len(examined.record.counts)), "missing": ", ".join(missing)})


def _leakage(examined: Examined) -> Finding:
    from lance_pipeline.quality.findings import leakage

    pairs = [leakage(examined.index, other) for other in examined.other_indices]
    return _images_at_fault(pairs, examined)


def _exact_duplicates(examined: Examined) -> Finding:
    from lance_pipeline.quality.findings import duplicates

    return _images_at_fault([duplicates(examined.index)], examined)


def _label_conflicts(examined: Examined) -> Finding:
    import pyarrow as pa
    import pyarrow.compute as pc

    from lance_pipeline.quality.findings import label_conflicts

    pairs = label_conflicts(pa.concat_tables([examined.index, *examined.other_indices]))
    mine = (pc.field("split") == examined.name) | (pc.field("other_split") == examined.name)
    return _images_at_fault([pairs.filter(mine)], examined)


def _near_duplicates(examined: Examined) -> Finding:
    from lance_pipeline.quality.findings import near_duplicates

    return _images_at_fault([near_duplicates(examined.index, examined.settings.near_duplicate_bits)], examined)


def _near_leakage(examined: Examined) -> Finding:
    from lance_pipeline.quality.findings import near_leakage

    bits = examined.settings.near_duplicate_bits
    return _images_at_fault([near_leakage(examined.index, other, bits) for other in examined.other_indices], examined)


def _odd_sizes(examined: Examined) -> Finding:
    from lance_pipeline.quality.findings import odd_sizes, smaller_images

    finding = _images_at_fault([odd_sizes(examined.index)], examined)
    smaller = len(smaller_images(examined.index, examined.image_size))
    return Finding(finding.passed, finding.rows, finding.numbers | {"smaller_than_image_size": smaller})


def _plain_images(examined: Examined) -> Finding:
    from lance_pipeline.quality.findings import plain_images

    return _images_at_fault([plain_images(examined.index, examined.settings.plain_deviation)], examined)


def _class_balance(examined: Examined) -> Finding:
    from lance_pipeline.quality.findings import class_counts, imbalance

    counts = class_counts(examined.index, examined.record.counts)
    ratio, limit = imbalance(counts), examined.settings.max_class_ratio
    shown = round(ratio, 2) if math.isfinite(ratio) else "infinite: a class has no images"
    numbers = {"largest_to_smallest_class": shown, "limit": f"{limit:g}"}
    return Finding(ratio <= limit, None if ratio <= limit else counts, numbers, pictured=False)


def _few_images(examined: Examined) -> Finding:
    from lance_pipeline.quality.findings import class_counts, small_classes

    minimum = examined.settings.min_images_per_class
    small = small_classes(class_counts(examined.index, examined.record.counts), minimum)
    return Finding(not len(small), small, {"classes": len(small), "limit": count(minimum)}, pictured=False)


def _images_at_fault(tables: "list[pa.Table]", examined: Examined) -> Finding:
    """Passed if no table has a row."""
    import pyarrow as pa

    rows = pa.concat_tables(tables) if tables else None
    # An image that is in two other splits stands in two rows.
    images = len(rows.group_by(["split", "row"]).aggregate([])) if rows is not None else 0
    return Finding(not images, rows, {"images": images, "share": percent(images / max(len(examined.index), 1))})


def _always(settings: Checks) -> bool:
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
