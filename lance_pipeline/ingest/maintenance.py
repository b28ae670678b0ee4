"""Which versions of a dataset are kept, and tidying up the rest."""

import re
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import lance

from lance_pipeline.ingest.seen_files import SeenFiles
from lance_pipeline.storage.facts import read_facts
from lance_pipeline.storage.object_store import is_remote
from lance_pipeline.storage.table_errors import cannot_write, verify_command
from lance_pipeline.storage.table_lock import locked
from lance_pipeline.storage.tables import find_table, open_table
from lance_pipeline.storage.verification import verify_rows

# Lance accepts other names too, and then fails at each clean-up.
_NOT_IN_A_TAG = re.compile("[^A-Za-z0-9._-]")
# Data files are merged where deleted rows take up this share, or where they have fewer rows than Lance likes.
_DELETED_SHARE = 0.1


class Tidied(NamedTuple):
    """What a clean-up did to a dataset; sizes in bytes."""

    uri: str
    version: int
    versions_before: int
    versions: int
    data_files_before: int
    data_files: int
    bytes_removed: int
    note: str = ""
    damaged: int = 0
    """Rows that are not what was ingested."""
    intact: bool = True
    """Whether nothing is damaged; otherwise nothing was done."""


def keep_version(uri: str, version: int, name: str) -> None:
    """Tag a version, which is then never cleaned up; a tag of that name moves to it.

    Characters that a tag may not have become ``-``.

    Raises:
        InputError: there is no such version, or the dataset may not be written.
    """
    _tag(open_table(uri, version), {name: version})


def keep_versions(uri: str, versions: Mapping[str, int]) -> None:
    """Tag those of these versions, by the names of the tags, that are still there.

    Raises:
        InputError: the dataset cannot be opened, or may not be written.
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


def release_version(uri: str, name: str) -> None:
    """Remove a tag, where there is one: the version that it kept is then cleaned up as any other.

    Raises:
        InputError: the dataset cannot be opened, or may not be written.
    """
    tag = _NOT_IN_A_TAG.sub("-", name)
    dataset = find_table(uri)
    try:
        if dataset is not None and tag in dataset.tags.list():
            dataset.tags.delete(tag)
    except OSError as error:
        raise cannot_write(uri, error) from error


def tidy(uri: str, older_than: timedelta, seen_uri: str | None = None) -> Tidied:
    """Compact a dataset and remove old versions of it that no tag keeps.

    Compaction merges small data files and leaves out deleted rows; it makes a version of the same
    content. Nothing is done while an ingest waits to be finished, for its files would be lost. All rows
    of a split are verified before: where some are damaged, nothing is done either, as an older version
    may still have them intact.

    Args:
        uri: the dataset.
        older_than: versions younger than this stay.
        seen_uri: the folder that remembers what was seen, of a dataset that an ingest writes.

    Raises:
        InputError: there is no such dataset, or it may not be written.
    """
    with locked([uri] if seen_uri is None else [uri, seen_uri]):
        before = open_table(uri)
        versions, files = len(before.versions()), len(before.get_fragments())
        if seen_uri is not None and _unfinished(seen_uri):
            note = "an ingest was interrupted: materialize it first"
            return Tidied(uri, before.version, versions, versions, files, files, 0, note)
        if "digests" in read_facts(before) and not (found := verify_rows(before)).passed:
            note = f"{found.note or 'rows are damaged'}: {verify_command(uri)}"
            return Tidied(
                uri, before.version, versions, versions, files, files, 0, note, len(found.damaged), intact=False
            )
        try:
            before.optimize.compact_files(materialize_deletions_threshold=_DELETED_SHARE)
            after = open_table(uri)
            stats = after.cleanup_old_versions(older_than, error_if_tagged_old_versions=False)
        except OSError as error:
            raise cannot_write(uri, error) from error
        after = open_table(uri)
        return Tidied(
            uri, after.version, versions, len(after.versions()), files, len(after.get_fragments()), stats.bytes_removed
        )


def removable_bytes(uri: str, older_than: timedelta) -> int:
    """The bytes of data files that a clean-up would remove now; 0 in an object store, and where there is no dataset.

    Raises:
        InputError: the dataset cannot be opened.
    """
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
    # A table without rows has no such folder.
    files = (path for path in Path(uri, "data").glob("*") if path.name not in needed)
    return sum(path.stat().st_size for path in files if path.stat().st_mtime < since)


def _unfinished(seen_uri: str) -> bool:
    seen = SeenFiles(seen_uri)
    seen.load()
    return seen.unfinished or any(step.written for step in seen.steps)
