"""Versioned Lance tables with facts in their metadata.

Everything that this package writes (listings, splits, predictions) is such a table: rows, and a
small JSON document of facts in the schema's metadata, committed together as one version.
"""

import logging
import os
from collections.abc import Callable, Iterable, Sequence

import lance
import numpy as np
import pyarrow as pa
from lance.fragment import FragmentMetadata, write_fragments
from numpy.typing import NDArray

from lance_pipeline.errors import InputError
from lance_pipeline.storage.facts import Facts, with_facts
from lance_pipeline.storage.lance_files import (
    fragment_with_rows,
    has_manifests,
    is_table_folder,
    make_parent,
    manifests,
    remove_orphan_files,
    set_aside,
    with_metadata,
)
from lance_pipeline.storage.object_store import require_reachable, storage_options
from lance_pipeline.storage.table_errors import (
    ConflictError,
    TableNotFoundError,
    brief,
    cannot_write,
    is_damage,
    is_unreadable,
    unreadable,
    write_error,
)
from lance_pipeline.storage.uris import Place, is_remote, normalized_uri

_logger = logging.getLogger(__name__)
_ATTEMPTS = 5
Batches = Sequence[pa.RecordBatch] | Callable[[], Iterable[pa.RecordBatch]]


def commit_table(place: Place, schema: pa.Schema, batches: Batches, facts: Facts) -> lance.LanceDataset:
    """Write ``batches`` as the new version of the table at a path or URI, in one atomic commit.

    Memory holds a few batches at a time. Readers see the old version until the commit; with two
    concurrent writers, the later commit wins. A damaged table is moved aside.

    Args:
        place: of the table.
        schema: of the batches.
        batches: a sequence, or a function that returns an iterator over them from the start; it is called again if
            another writer creates the table in the meantime.
        facts: of the new version.

    Raises:
        InputError: the table cannot be written.
        TypeError: the batches could be read only once.
    """
    if not callable(batches) and not isinstance(batches, Sequence):
        raise TypeError(f"batches must be a sequence or a function, not {type(batches).__name__}")
    uri = normalized_uri(place)
    before = find_replaceable(uri)
    fragments = None
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            if fragments is None:
                fragments = _write(uri, before, schema, batches() if callable(batches) else batches)
            return replace_rows(uri, before, schema, fragments, facts)
        except ConflictError as error:
            if attempt == _ATTEMPTS:
                raise cannot_write(uri, error) from error
            before = find_table(uri)
    raise AssertionError("unreachable")


def _write(
    uri: str, before: lance.LanceDataset | None, schema: pa.Schema, batches: Iterable[pa.RecordBatch]
) -> list[FragmentMetadata]:
    try:
        make_parent(uri)
        reader = pa.RecordBatchReader.from_batches(schema, batches)
        mode, options = "create" if before is None else "overwrite", storage_options(uri)
        return write_fragments(reader, uri, schema=schema, mode=mode, storage_options=options)
    except OSError as error:
        raise write_error(uri, error, _version_of(before)) from error


def replace_rows(
    uri: str, before: lance.LanceDataset | None, schema: pa.Schema, fragments: list[FragmentMetadata], facts: Facts
) -> lance.LanceDataset:
    """Commit ``fragments`` as the whole content of the table.

    Raises:
        ConflictError: ``before`` is no longer the latest version.
        InputError: the table cannot be written.
    """
    operation = lance.LanceOperation.Overwrite(with_facts(schema, facts), fragments)
    transaction = lance.Transaction(_version_of(before), operation)
    try:
        return lance.LanceDataset.commit(uri, transaction, max_retries=0, storage_options=storage_options(uri))
    except OSError as error:
        raise write_error(uri, error, _version_of(before)) from error


def _version_of(table: lance.LanceDataset | None) -> int:
    return 0 if table is None else table.version


def change_rows(
    dataset: lance.LanceDataset, left: dict[int, NDArray[np.uint32]], added: list[FragmentMetadata], facts: Facts
) -> lance.LanceDataset:
    """Remove and add rows in a single commit.

    Args:
        dataset: the version to change.
        left: for each fragment that loses rows, by id, the physical offsets of the rows that it keeps.
        added: fragments that :func:`lance.fragment.write_fragments` wrote for this dataset.
        facts: of the new version.

    Raises:
        ConflictError: ``dataset`` is no longer the latest version.
        InputError: the table cannot be written.
    """
    try:
        kept = [
            fragment_with_rows(fragment, left[number], dataset)
            if (number := fragment.fragment_id) in left
            else fragment.metadata
            for fragment in dataset.get_fragments()
        ]
        schema = with_metadata(dataset.lance_schema, with_facts(dataset.schema, facts).metadata)
        operation = lance.LanceOperation.Merge(kept + _numbered(added, dataset), schema)
        transaction = lance.Transaction(dataset.version, operation)
        options = storage_options(dataset.uri)
        return lance.LanceDataset.commit(dataset, transaction, max_retries=0, storage_options=options)
    except OSError as error:
        raise write_error(dataset.uri, error, dataset.version) from error


def _numbered(fragments: list[FragmentMetadata], dataset: lance.LanceDataset) -> list[FragmentMetadata]:
    """The new fragments with unused ids, as a merge requires."""
    last = max((fragment.fragment_id for fragment in dataset.get_fragments()), default=-1)
    numbered = []
    for number, fragment in enumerate(fragments, last + 1):
        fragment.id = number
        numbered.append(fragment)
    return numbered


def find_table(place: Place) -> lance.LanceDataset | None:
    """The latest version of the dataset at a path or URI, or None if there is none.

    Raises:
        InputError: the object store is unreachable, or denies access.
        DamagedError: the dataset cannot be read.
    """
    uri = normalized_uri(place)
    if not is_remote(uri) and not os.path.isdir(uri):
        return None
    try:
        return _open(uri, None)
    except TableNotFoundError:
        return None


def find_replaceable(
    place: Place, intact: Callable[[lance.LanceDataset], bool] = lambda stored: True
) -> lance.LanceDataset | None:
    """Like :func:`find_table`, for a table that can be rebuilt: a damaged one is moved aside.

    Args:
        place: of the table, a path or URI.
        intact: checks the content of the latest version; may also raise the errors of reading it.

    Raises:
        InputError: the table is inaccessible, or cannot be moved.
    """
    uri = normalized_uri(place)
    try:
        found = find_table(uri)
        if found is None and (is_remote(uri) or not has_manifests(uri)):
            return None
        # Lance does not find a table whose manifests were deleted, and opens one whose manifest was overwritten with
        # zeros as a table without columns.
        if found is not None and found.schema.names and _rows(found) == found.count_rows() and intact(found):
            return found
        reason = "its content differs from what was written"
    except BaseException as error:
        if not is_damage(error):
            raise
        reason = brief(error)
    _logger.warning(
        "The Lance dataset %s is damaged (%s). It will be written again; the damaged one is now at %s.",
        uri,
        reason,
        set_aside(uri),
    )
    return None


def _rows(stored: lance.LanceDataset) -> int:
    """The number of readable rows."""
    return sum(len(batch) for batch in stored.to_batches())


def open_table(place: Place, version: int | None = None) -> lance.LanceDataset:
    """Open the dataset at a path or URI, at ``version`` or the latest.

    Raises:
        InputError: the dataset or the version does not exist.
        DamagedError: the dataset cannot be read.
    """
    return _open(normalized_uri(place), version)


def _open(uri: str, version: int | None) -> lance.LanceDataset:
    try:
        require_reachable(uri)
        dataset = lance.dataset(uri, version=version, storage_options=storage_options(uri))
    except BaseException as error:
        if not is_unreadable(error):
            raise
        # A store that does not respond raises an OSError, and is not asked again.
        if isinstance(error, ValueError | FileNotFoundError) and _is_missing(uri, version):
            raise TableNotFoundError(uri, version) from error
        raise unreadable(uri, version, error) from error
    if dataset.version < 1:
        # Lance reads a manifest of zeros as version 0.
        raise unreadable(uri, version, ValueError("its manifest is empty"))
    return dataset


def _is_missing(uri: str, version: int | None) -> bool:
    """Whether there is no table, or no such version of it; False if the store does not respond."""
    try:
        there = [number for number, _ in manifests(uri)]
    except (OSError, InputError):
        return False
    return not there if version is None else version not in there


def is_table(place: Place) -> bool:
    """Whether there is a table, even a damaged one.

    Raises:
        InputError: the object store is unreachable, or denies access.
    """
    uri = normalized_uri(place)
    return find_table(uri) is not None if is_remote(uri) else is_table_folder(uri)


def remove_orphans(place: Place) -> None:
    """Remove files that belong to no version; the caller holds the dataset's lock.

    Raises:
        InputError: the files cannot be removed.
    """
    if not is_remote(uri := normalized_uri(place)) and (dataset := find_table(uri)) is not None:
        remove_orphan_files(dataset)
