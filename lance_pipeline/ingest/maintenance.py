"""Tags the versions of a dataset to keep, and removes the rest."""

import re
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import lance

from lance_pipeline.ingest.seen_files import SeenFiles
from lance_pipeline.storage.facts import read_facts
from lance_pipeline.storage.table_errors import cannot_write, verify_command
from lance_pipeline.storage.table_lock import locked
from lance_pipeline.storage.tables import find_table, open_table
from lance_pipeline.storage.uris import Place, is_remote, normalized_uri
from lance_pipeline.storage.verification import verify_rows

# Lance accepts tags with other characters too, and then fails at each clean-up.
_NOT_IN_A_TAG = re.compile("[^A-Za-z0-9._-]")
# Data files are rewritten if deleted rows exceed this share, or merged if they are smaller than Lance's target.
_DELETED_SHARE = 0.1


class TidyResult(NamedTuple):
    """The result of a clean-up; sizes in bytes."""

    uri: str
    version: int
    versions_before: int
    versions: int
    data_files_before: int
    data_files: int
    bytes_removed: int
    note: str = ""
    damaged: int = 0
    """The number of damaged rows."""
    intact: bool = True
    """False if anything is damaged; nothing was done then."""


def keep_version(uri: Place, version: int, name: str) -> None:
    """Tag a version so that it is never cleaned up; an existing tag of that name is moved to it.

    Characters that tags do not allow become ``-``.

    Raises:
        InputError: there is no such version, or the dataset cannot be written.
    """
    _tag(open_table(uri, version), {name: version})


def keep_versions(uri: Place, versions: Mapping[str, int]) -> None:
    """Tag the versions that still exist, given the version for each tag name.

    Raises:
        InputError: the dataset cannot be opened or written.
    """
    dataset = find_table(uri)
    if dataset is not None:
        there = {version["version"] for version in dataset.versions()}
        _tag(dataset, {name: version for name, version in versions.items() if version in there})


def _tag(dataset: lance.LanceDataset, versions: Mapping[str, int]) -> None:
    try:
        tags = dataset.tags.list()
        for name, version in versions.items():
            tag = _NOT_IN_A_TAG.sub("-", name)
            if tag not in tags:
                dataset.tags.create(tag, version)
            elif tags[tag]["version"] != version:
                dataset.tags.update(tag, version)
    except OSError as error:
        raise cannot_write(dataset.uri, error) from error


def release_version(uri: Place, name: str) -> None:
    """Remove a tag if it exists; its version is then cleaned up like any other.

    Raises:
        InputError: the dataset cannot be opened or written.
    """
    tag = _NOT_IN_A_TAG.sub("-", name)
    dataset = find_table(uri)
    try:
        if dataset is not None and tag in dataset.tags.list():
            dataset.tags.delete(tag)
    except OSError as error:
        raise cannot_write(normalized_uri(uri), error) from error


def tidy(place: Place, older_than: timedelta, seen_uri: Place | None = None) -> TidyResult:
    """Compact a dataset and remove its old versions that have no tag.

    Compaction merges small data files and drops deleted rows; it creates a version with the same
    content. Nothing is done while an interrupted ingest is unfinished, because its files would be
    lost. All rows of a split are verified first; if any are damaged, nothing is done either, because
    an older version may still have them intact.

    Args:
        place: the dataset.
        older_than: younger versions stay.
        seen_uri: the folder that remembers the seen files, if an ingest writes the dataset.

    Raises:
        InputError: there is no such dataset, or it cannot be written.
    """
    uri = normalized_uri(place)
    with locked([uri] if seen_uri is None else [uri, seen_uri]):
        before = open_table(uri)
        versions, files = len(before.versions()), len(before.get_fragments())
        if seen_uri is not None and _unfinished(seen_uri):
            note = "an ingest was interrupted: materialize the split first"
            return TidyResult(uri, before.version, versions, versions, files, files, 0, note)
        if "digests" in read_facts(before) and not (found := verify_rows(before)).passed:
            note = f"{found.note or 'rows are damaged'}: {verify_command(uri)}"
            return TidyResult(
                uri, before.version, versions, versions, files, files, 0, note, len(found.damaged), intact=False
            )
        try:
            before.optimize.compact_files(materialize_deletions_threshold=_DELETED_SHARE)
            after = open_table(uri)
            stats = after.cleanup_old_versions(older_than, error_if_tagged_old_versions=False)
        except OSError as error:
            raise cannot_write(uri, error) from error
        after = open_table(uri)
        return TidyResult(
            uri, after.version, versions, len(after.versions()), files, len(after.get_fragments()), stats.bytes_removed
        )


def removable_bytes(place: Place, older_than: timedelta) -> int:
    """The bytes of data files that a clean-up would remove now; 0 in an object store or without a dataset.

    Raises:
        InputError: the dataset cannot be opened.
    """
    uri = normalized_uri(place)
    dataset = None if is_remote(uri) else find_table(uri)
    if dataset is None:
        return 0
    since = time.time() - older_than.total_seconds()
    tagged = {tag["version"] for tag in dataset.tags.list().values()}
    needed = set()
    versions: list[Any] = dataset.versions()
    for version in versions:
        if version["version"] in tagged | {dataset.version} or version["timestamp"].timestamp() > since:
            fragments = dataset.checkout_version(version["version"]).get_fragments()
            needed |= {file.path for fragment in fragments for file in fragment.data_files()}
    # A table without rows has no data folder.
    files = (path for path in Path(uri, "data").glob("*") if path.name not in needed)
    return sum(path.stat().st_size for path in files if path.stat().st_mtime < since)


def _unfinished(seen_uri: Place) -> bool:
    seen = SeenFiles(seen_uri)
    seen.load()
    return seen.unfinished or any(step.written for step in seen.steps)
