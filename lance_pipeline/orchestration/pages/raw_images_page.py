"""The page of a listed folder of images."""

import mimetypes
import os
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg

from lance_pipeline.display import count, percent, size
from lance_pipeline.orchestration.dataset import SPLITS
from lance_pipeline.orchestration.pages.page import asset_address
from lance_pipeline.orchestration.records import RawImages

if TYPE_CHECKING:
    import pyarrow as pa

    from lance_pipeline.sources.listing import Listing

_EXTREMES, _EXAMPLES = 10, 20


def raw_images_page(key: dg.AssetKey, record: RawImages, listing: "Listing", listed: datetime) -> dict[str, Any]:
    """The content for the template ``raw_images``, taken from the listing alone: no image is read.

    Args:
        key: the key of the asset.
        record: the listed folder.
        listing: the listing of its files.
        listed: the time of the listing.
    """
    import pyarrow.compute as pc

    files, ignored = listing.files.append_column("ending", _endings(listing.files)), listing.ignored
    [of_all] = files.group_by([]).aggregate([("size", "sum"), ("mtime_ns", "min"), ("mtime_ns", "max")]).to_pylist()
    empty, misnamed = files.filter(pc.field("size") == 0), _not_named_as_images(files)
    splits = [dg.AssetKey([key.path[0], f"lance_{split}"]) for split in SPLITS]
    return {
        "title": f"{count(files.num_rows)} files",
        "lead": f"{count(files.num_rows)} files in {count(len(record.classes))} classes, "
        f"{size(of_all['size_sum'])}, last changed between {_day(of_all['mtime_ns_min'])} and "
        f"{_day(of_all['mtime_ns_max'])}.",
        "links": [
            ("asset", asset_address(key)),
            *((split.path[-1], asset_address(split)) for split in splits),
            ("all reports", "/reports/"),
        ],
        "class_columns": ["class", *(split or "files" for split in record.counts), "share", "size"],
        "class_rows": _class_rows(record, files),
        "ending_rows": _ending_rows(files),
        "largest": _extremes(record, files, "descending"),
        "smallest": _extremes(record, files, "ascending"),
        "unusual": [
            (count(empty.num_rows), "empty", _examples(record, empty)),
            (count(misnamed.num_rows), "not named as an image", _examples(record, misnamed)),
            (count(len(ignored)), "ignored: hidden, or outside of class folders", ignored[:_EXAMPLES]),
        ],
        "versions": [
            ("folder", record.root),
            *((f"folder of {split or 'all splits'}", folder or ".") for split, folder in record.folders.items()),
            ("listed", f"{listed:%Y-%m-%d %H:%M:%S} UTC"),
            ("listing", f"{record.listing.uri}, version {record.listing.version}"),
            ("fingerprint", record.listing.fingerprint),
        ],
    }


def _class_rows(record: RawImages, files: "pa.Table") -> list[tuple[str, ...]]:
    """For each class, the number of its files in each split, their share of all files, and their size."""
    sums = files.group_by("label").aggregate([("size", "sum")]).to_pylist()
    sizes = {row["label"]: row["size_sum"] for row in sums}
    counts = {label: [of_label[label] for of_label in record.counts.values()] for label in record.classes}
    return [
        (label, *map(count, numbers), percent(sum(numbers) / files.num_rows), size(sizes[label]))
        for label, numbers in counts.items()
    ]


def _endings(files: "pa.Table") -> "pa.ChunkedArray":
    """The ending of each file's name: the lower-case text after the last dot, empty if there is no dot."""
    import pyarrow.compute as pc

    rest = pc.ReplaceSubstringOptions(r"^(.*/)?([^.]*$|.*\.)", "")
    return pc.call_function("utf8_lower", [pc.call_function("replace_substring_regex", [files["path"]], rest)])


def _ending_rows(files: "pa.Table") -> list[tuple[str, str, str]]:
    """The number of files and bytes for each ending, the most common first."""
    groups = files.group_by("ending").aggregate([("size", "count"), ("size", "sum")])
    ordered = groups.sort_by([("size_count", "descending"), ("ending", "ascending")]).to_pylist()[:_EXAMPLES]
    return [(row["ending"] or "(none)", count(row["size_count"]), size(row["size_sum"])) for row in ordered]


def _not_named_as_images(files: "pa.Table") -> "pa.Table":
    """The files without the ending of an image; only reading them shows whether they are images."""
    import pyarrow as pa
    import pyarrow.compute as pc

    endings = files["ending"].unique().to_pylist()
    kinds = {ending: mimetypes.guess_type(f"x.{ending}", strict=False)[0] or "" for ending in endings}
    others = [ending for ending, kind in kinds.items() if not kind.startswith("image/")]
    return files.filter(pc.field("ending").isin(pa.array(others, pa.string())))


def _extremes(record: RawImages, files: "pa.Table", order: str) -> list[tuple[str, str]]:
    """The largest or the smallest files, with their sizes."""
    found = files.sort_by([("size", order), ("path", "ascending")]).slice(0, _EXTREMES).to_pylist()
    return [(_place(record, row), size(row["size"])) for row in found]


def _examples(record: RawImages, files: "pa.Table") -> list[str]:
    return [_place(record, row) for row in files.slice(0, _EXAMPLES).to_pylist()]


def _place(record: RawImages, row: dict[str, Any]) -> str:
    """A file's path below the root folder of all splits."""
    return os.path.join(record.folders[row["split"]], row["path"])


def _day(nanoseconds: int) -> date:
    return datetime.fromtimestamp(nanoseconds / 1e9, UTC).date()
