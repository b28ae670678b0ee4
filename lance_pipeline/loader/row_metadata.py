"""Row metadata for loaders, the integrity check of what they read, and the guard against forks."""

import logging
import os
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from lance_pipeline.errors import InputError
from lance_pipeline.imaging.rejection import UndecodableImageError
from lance_pipeline.storage.columns import Indices
from lance_pipeline.storage.image_column import ImageColumn
from lance_pipeline.storage.lance_split import LanceSplit
from lance_pipeline.storage.row_digests import Digests, image_digests, sums_by_class
from lance_pipeline.storage.table_errors import damaged_version

_log = logging.getLogger(__name__)
_EXAMPLES = 5


class RowFacts(NamedTuple):
    """Metadata of the rows of a split, without its images.

    Attributes:
        labels: the class index of each row, int64 (rows,).
        digests: the digest of each image, uint64 (rows,); None if the dataset has none.
    """

    labels: Indices
    digests: Digests | None


def row_facts(split: LanceSplit, classes: list[str]) -> RowFacts:
    """Read labels and digests of all rows, and compare their sums with the facts of the dataset.

    Raises:
        InputError: there are labels outside the classes, or rows with no label or several.
        DamagedError: rows are missing or duplicated, or have another label than when they were ingested.
    """
    index = {label: number for number, label in enumerate(classes)}
    column = split.digest_column
    codes, digests = [np.empty(0, np.int64)], [np.empty(0, np.uint64)]
    for labels, batch in split.labels([] if column is None else [column]):
        numbers = [index.setdefault(name, len(index)) for name in labels.names]
        codes.append(np.array(numbers, np.int64)[labels.codes])
        if column is not None:
            digests.append(batch[column].to_numpy())
    facts = RowFacts(np.concatenate(codes), None if column is None else np.concatenate(digests))
    if facts.digests is None:
        _log.warning("%s has no digests, so damage to its images cannot be detected; ingest it again", split.uri)
    elif "digests" in split.facts and split.label_column == "label":
        _require_sums(split, list(index), facts.labels, facts.digests)
    if unknown := sorted(index.keys() - set(classes)):
        raise InputError(
            f"{split.uri} has labels that are not among the model's classes: {unknown}. Retrain the model."
        )
    return facts


def _require_sums(split: LanceSplit, names: list[str], labels: Indices, digests: Digests) -> None:
    """Compare the sums of digests with those of the ingest; ``labels`` are indices into ``names``."""
    if split.facts["rows"] != len(labels):
        _log.warning(
            "%s has %d rows but had %d when it was ingested: another tool has changed it, so missing rows cannot be "
            "detected; ingest it again", split.uri, len(labels), split.facts["rows"],
        )  # fmt: skip
        return
    found = dict(zip(names, sums_by_class(labels, digests, len(names)), strict=True))
    expected: dict[str, int] = split.facts["digests"]["images"]
    if wrong := [label for label in {*found, *expected} if found.get(label, 0) != expected.get(label, 0)]:
        shown = ", ".join(sorted(wrong)[:_EXAMPLES])
        raise damaged_version(split.uri, split.version, f"the images labelled {shown} are not those that were ingested")


class StoredImages:
    """The images of a split, checked against their digests as they are read.

    Args:
        split: the split.
        digests: the digest of each image; None checks nothing.

    Attributes:
        dataset: the Lance dataset at the split's version.
        images: their column.

    Raises:
        InputError: there is no such column, or its type cannot hold encoded images.
    """

    def __init__(self, split: LanceSplit, digests: Digests | None) -> None:
        self.dataset, self._split, self._digests = split.dataset, split, digests
        self.images = ImageColumn(split.dataset, split.image_column)

    def require_intact(self, rows: Indices, images: Iterable[memoryview]) -> None:
        """Check the images of some rows.

        Raises:
            DamagedError: an image is not the one that was ingested.
        """
        if self._digests is not None:
            damaged = rows[image_digests(images) != self._digests[rows]]
            self._split.require_intact(damaged.tolist())


def undecodable(split: LanceSplit, row: int, error: UndecodableImageError) -> InputError:
    """The error for a row that cannot be decoded, named by its path, or else by its number."""
    (path,) = split.paths_of([row])
    name = path if path == f"row {row}" else f"image {path!r}"
    return InputError(f"{name} of {split.uri} cannot be decoded: {error}")


def refuse_fork(process: int) -> None:
    """Refuse to read in a forked process: Lance's threads do not survive a fork, so reading would block forever.

    Args:
        process: the id of the process that opened the dataset.

    Raises:
        RuntimeError: this is another process.
    """
    if os.getpid() != process:
        raise RuntimeError(
            "the Lance dataset was opened before this process was forked, and Lance cannot read after a fork. Iterate "
            "over an ImageLoader without a DataLoader, because it has its own threads, or pass "
            "multiprocessing_context='spawn' to the DataLoader."
        )
