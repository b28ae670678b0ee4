"""The files that could not become rows: limits on their number, and the dataset that lists them."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import lance
import pyarrow as pa

from lance_pipeline.errors import InputError
from lance_pipeline.imaging.rejection import Rejected
from lance_pipeline.storage.facts import read_facts
from lance_pipeline.storage.fingerprint import Fingerprint
from lance_pipeline.storage.schema import REJECTED_SCHEMA
from lance_pipeline.storage.tables import commit_table, find_replaceable

_EXAMPLES = 5
_REASONS_SHOWN = 3


@dataclass(frozen=True)
class Limits:
    """How many files may be rejected.

    Attributes:
        on_bad_image: ``quarantine`` lists bad files and continues, ``fail`` fails once all are known.
        max_rejected_fraction: above this share of all files an ingest fails either way.
    """

    on_bad_image: Literal["quarantine", "fail"] = "quarantine"
    max_rejected_fraction: float = 0.05

    def exceeded(self, rejected: int, scanned: int) -> bool:
        """Whether the rejected files exceed ``max_rejected_fraction``."""
        return rejected > self.max_rejected_fraction * scanned

    def check(self, where: str, rejected: list[Rejected], scanned: int, *, complete: bool) -> None:
        """Check the rejected files of one folder against the limits.

        Args:
            where: the folder, for the message.
            rejected: the rejected files.
            scanned: the number of files in the folder.
            complete: whether all files have been read.

        Raises:
            InputError: too many files are rejected. It names the most common reasons, with examples.
        """
        if not rejected:
            return
        if self.exceeded(len(rejected), scanned):
            what = f"more than `max_rejected_fraction` allows ({self.max_rejected_fraction:.2%})"
            advice = "Repair these files or move them away, or raise `max_rejected_fraction`"
        elif complete and self.on_bad_image == "fail":
            what = "and `on_bad_image` is `fail`"
            advice = "Repair these files or move them away, or set `on_bad_image: quarantine`"
        else:
            return
        rejected = sorted(rejected)
        lines = [f"{one.path}: {one.reason}: {one.detail}" for one in rejected]
        count = f"{'' if complete else 'at least '}{len(rejected)}"
        raise InputError(
            [
                f"{count} of {scanned} files of {where} cannot be read as images, {what}:",
                *_most_common_reasons(rejected),
                f"{advice}. Nothing was committed; the files read so far are kept, and the next run resumes here.",
            ],
            lines,
        )


def _most_common_reasons(rejected: list[Rejected]) -> list[str]:
    """Lines with the most common reasons and examples of each."""
    lines = []
    for reason, count in Counter(one.reason for one in rejected).most_common(_REASONS_SHOWN):
        lines.append(f"  {reason}: {count}")
        examples = [one for one in rejected if one.reason == reason][:_EXAMPLES]
        lines += [f"    {one.path}: {one.detail}" for one in examples]
    return lines


def rejected_uri(uri: str) -> str:
    """The URI of the quarantine of the split at ``uri``."""
    return f"{uri.removesuffix('.lance')}_rejected.lance"


def store_rejected(uri: str, rejected: list[Rejected]) -> int:
    """Store the list as a Lance dataset at ``uri``; returns its version, a new one only if the list changed.

    A damaged dataset is replaced.

    Raises:
        InputError: the dataset cannot be written.
    """
    rejected, fingerprint = sorted(rejected), _fingerprint(rejected)
    kept = find_replaceable(uri, _is_intact)
    if kept is not None and read_facts(kept)["fingerprint"] == fingerprint:
        return kept.version
    columns = list(zip(*rejected, strict=True)) or [()] * len(REJECTED_SCHEMA)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, REJECTED_SCHEMA, strict=True)]
    batch = pa.record_batch(arrays, schema=REJECTED_SCHEMA)
    facts = {"fingerprint": fingerprint, "rows": len(rejected)}
    return commit_table(uri, REJECTED_SCHEMA, [batch] if rejected else [], facts).version


def _fingerprint(rejected: Iterable[Rejected]) -> str:
    fingerprint = Fingerprint()
    for one in rejected:
        fingerprint.add(*one)
    return fingerprint.hexdigest()


def _is_intact(stored: lance.LanceDataset) -> bool:
    rows = stored.to_table(columns=REJECTED_SCHEMA.names).cast(REJECTED_SCHEMA).to_pylist()
    return _fingerprint(Rejected(**row) for row in rows) == read_facts(stored).get("fingerprint")
