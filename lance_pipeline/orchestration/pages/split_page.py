"""The page of a split."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg

from lance_pipeline.display import count, percent, size
from lance_pipeline.orchestration.metadata import picture_address
from lance_pipeline.orchestration.pages.page import asset_address
from lance_pipeline.orchestration.records import Split

if TYPE_CHECKING:
    from lance_pipeline.images import LanceSplit
    from lance_pipeline.imaging.pictures import SplitPictures
    from lance_pipeline.quality.check_outcomes import Outcome

_EXAMPLES = 20


def split_page(
    key: dg.AssetKey,
    record: Split,
    data: "LanceSplit",
    reasons: Mapping[str, int],
    outcomes: "Sequence[Outcome]",
    pictures: "SplitPictures",
) -> dict[str, Any]:
    """The content for the template ``split``."""
    from lance_pipeline.imaging.thumbnails import jpeg
    from lance_pipeline.storage.tables import open_table

    rejected = open_table(record.quarantine.uri, record.quarantine.version).to_table(limit=_EXAMPLES).to_pylist()
    bytes_, share = size(data.size_in_bytes()), percent(record.rejected / max(record.scanned, 1))
    return {
        "title": f"{count(record.rows)} images",
        "lead": f"{count(record.rows)} images in {count(len(record.counts))} classes, {bytes_}. "
        f"{count(record.rejected)} of {count(record.scanned)} files were rejected ({share}).",
        "links": [("asset", asset_address(key)), ("all reports", "/reports/")],
        "classes_picture": picture_address(pictures.classes),
        "class_rows": [
            (label, count(images), percent(images / max(record.rows, 1))) for label, images in record.counts.items()
        ],
        "samples": [(picture_address(jpeg(one.image)), one.label, one.path) for one in pictures.samples],
        "checks": [_check(key.path[0], outcome) for outcome in outcomes],
        "rejected_rows": [(reason, count(files)) for reason, files in reasons.items()],
        "rejected_examples": [(one["path"], one["reason"], one["detail"]) for one in rejected],
        "versions": [
            ("Lance dataset", f"{record.data.uri}, version {record.data.version}"),
            ("fingerprint", record.data.fingerprint),
            ("quarantine", f"{record.quarantine.uri}, version {record.quarantine.version}"),
        ],
    }


def _check(dataset: str, outcome: "Outcome") -> dict[str, Any]:
    return {
        "name": outcome.check.name.replace("_", " "),
        "description": outcome.check.description,
        "passed": outcome.passed,
        "numbers": [(name.replace("_", " "), _number(value)) for name, value in outcome.numbers.items() if value != ""],
        "examples": picture_address(outcome.examples) if outcome.examples else None,
        "full_list": f"/reports/{dataset}/{outcome.full_list.name}" if outcome.full_list else None,
    }


def _number(value: object) -> str:
    return count(value) if isinstance(value, int) else str(value)
