"""Versioned Lance tables that carry their own facts.

Everything that this package writes (listings, splits, predictions) is such a table: rows, and a
small JSON document of facts in the schema's metadata, committed together as one version.
"""

import json
import logging
import os
import secrets
from collections.abc import Callable, Iterable
from datetime import timedelta
from itertools import count
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import xxhash
from lance.commit import CommitConflictError
from lance.fragment import DeletionFile, FragmentMetadata, write_fragments
from lance.schema import LanceSchema
from numpy.typing import NDArray

from lance_pipeline.errors import DamagedError, InputError
from lance_pipeline.storage.damage import brief, is_damage, is_unreadable, unreadable, verify_command
from lance_pipeline.storage.formats import FIRST_FORMAT, FORMAT_KEY, require_known_format
from lance_pipeline.storage.object_store import (
    filesystem,
    is_remote,
    join_uri,
    reach,
    storage_options,
    write_whole,
)
from lance_pipeline.storage.whole_files import TEMPORARY

_logger = logging.getLogger(__name__)
FACTS_KEY, _DIGEST_KEY = b"lance_pipeline", b"lance_pipeline_xxh3"
FACTS_FORMAT = 1
"""The latest format of a table's facts."""
Facts = dict[str, Any]
_ATTEMPTS = 5
_FOREVER = timedelta(days=36500)
_NOT_FOUND = pafs.FileType.NotFound
_DELETIONS = pa.schema([pa.field("row_id", pa.uint32(), nullable=False)])


class ConflictError(Exception):
    """Somebody else committed a version in the meantime; what was planned is to be planned anew."""


def commit_table(uri: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch], facts: Facts) -> lance.LanceDataset:
    """Write ``batches`` as the new version of the table at ``uri``, in one atomic commit.

    Memory holds a few batches at a time. Readers see the old version until the commit; of two
    writers at once the later one's rows stay. A damaged table at ``uri`` is set aside.

    Raises:
        InputError: the table cannot be written.
    """
    before = find_replaceable(uri)
    fragments = None
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            if fragments is None:
                fragments = _write(uri, before, schema, batches)
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
        raise write_error(uri, error) from error


def replace_rows(
    uri: str, before: lance.LanceDataset | None, schema: pa.Schema, fragments: list[FragmentMetadata], facts: Facts
) -> lance.LanceDataset:
    """Commit ``fragments`` as all that the table holds.

    Raises:
        ConflictError: ``before`` is not the latest version any more.
        InputError: the table cannot be written.
    """
    operation = lance.LanceOperation.Overwrite(with_facts(schema, facts), fragments)
    transaction = lance.Transaction(0 if before is None else before.version, operation)
    try:
        return lance.LanceDataset.commit(uri, transaction, max_retries=0, storage_options=storage_options(uri))
    except OSError as error:
        raise write_error(uri, error) from error


def change_rows(
    dataset: lance.LanceDataset, left: dict[int, NDArray[np.uint32]], added: list[FragmentMetadata], facts: Facts
) -> lance.LanceDataset:
    """Commit a version without some rows and with others, in one step.

    Args:
        dataset: the version that the change starts from.
        left: for the id of each fragment that loses rows the physical offsets of those that it keeps.
        added: fragments that :func:`lance.fragment.write_fragments` wrote for this dataset.
        facts: of the new version.

    Raises:
        ConflictError: ``dataset`` is not the latest version any more.
        InputError: the table cannot be written.
    """
    try:
        kept = [
            _with_rows(fragment, left[number], dataset)
            if (number := fragment.fragment_id) in left
            else fragment.metadata
            for fragment in dataset.get_fragments()
        ]
        schema = LanceSchema.from_pyarrow(with_facts(dataset.schema, facts))
        operation = lance.LanceOperation.Merge(kept + _numbered(added, dataset), schema)
        transaction = lance.Transaction(dataset.version, operation)
        options = storage_options(dataset.uri)
        return lance.LanceDataset.commit(dataset, transaction, max_retries=0, storage_options=options)
    except OSError as error:
        raise write_error(dataset.uri, error) from error


def _with_rows(
    fragment: lance.LanceFragment, offsets: NDArray[np.uint32], dataset: lance.LanceDataset
) -> FragmentMetadata:
    """The fragment with these rows only.

    Its deletion file is written here, an Arrow file of row offsets as Lance's table format
    describes it, for ``delete_rows`` reports success on a full disk although the file is cut off,
    and has no answer for a fragment that loses all rows. A merge has to name such a fragment too;
    the commit then leaves it out and its deletion file is never read.
    """
    deleted = np.delete(np.arange(fragment.physical_rows, dtype=np.uint32), offsets)
    metadata = fragment.metadata
    metadata.deletion_file = DeletionFile(
        read_version=dataset.version,
        id=secrets.randbits(63),
        file_type="array",
        num_deleted_rows=len(deleted),
        base_id=None,
    )
    if len(offsets):
        sink = pa.BufferOutputStream()
        batch = pa.record_batch([pa.array(deleted)], schema=_DELETIONS)
        with pa.ipc.new_file(sink, _DELETIONS) as writer:
            writer.write_batch(batch)
        path = join_uri(dataset.uri, metadata.deletion_file.path(fragment.fragment_id))
        write_whole(path, sink.getvalue())
    return metadata


def write_error(uri: str, error: OSError) -> Exception:
    """A conflict, or what keeps the table from being written."""
    # Not every path raises Lance's own class; "already exists" and "0.manifest" are lost races to create it.
    signs = ("conflict", "already exists", "_versions/0.manifest")
    if isinstance(error, CommitConflictError) or any(sign in str(error).lower() for sign in signs):
        return ConflictError(str(error))
    return cannot_write(uri, error)


def _numbered(fragments: list[FragmentMetadata], dataset: lance.LanceDataset) -> list[FragmentMetadata]:
    """The new fragments with ids of their own, as a merge asks for."""
    last = max((fragment.fragment_id for fragment in dataset.get_fragments()), default=-1)
    numbered = []
    for number, fragment in enumerate(fragments, last + 1):
        fragment.id = number
        numbered.append(fragment)
    return numbered


def remove_orphans(uri: str) -> None:
    """Remove files that belong to no version; the caller holds the dataset's lock.

    In an object store writers on other hosts may be at work: there Lance itself removes such files
    once they are a week old, when old versions are cleaned up.

    Raises:
        InputError: the files cannot be removed.
    """
    dataset = find_table(uri)
    if dataset is None or is_remote(uri):
        return
    try:
        for folder in ("_deletions", "_transactions", "_versions"):
            for name in os.listdir(os.path.join(uri, folder)) if os.path.isdir(os.path.join(uri, folder)) else []:
                path = os.path.join(uri, folder, name)
                if name.startswith(".tmp") or name.endswith(TEMPORARY):
                    os.remove(path)
                elif folder == "_deletions":
                    # Lance looks for orphans of this kind only among files older than all versions.
                    os.utime(path, (0, 0))
        dataset.cleanup_old_versions(_FOREVER, delete_unverified=True, error_if_tagged_old_versions=False)
    except BaseException as error:
        if is_damage(error) or "corrupt file" in str(error):
            # The latest version can be read; damage to an older one is no reason to stop.
            _logger.warning("Nothing of %s was tidied up, as a version of it is damaged: %s", uri, brief(error))
            return
        if isinstance(error, OSError):
            raise cannot_write(uri, error) from error
        raise


def with_facts(schema: pa.Schema, facts: Facts) -> pa.Schema:
    """The schema with these facts in its metadata, and their digest, as a manifest has no checksum."""
    raw = json.dumps({FORMAT_KEY: FACTS_FORMAT} | facts).encode()
    return schema.with_metadata({FACTS_KEY: raw, _DIGEST_KEY: _digest(raw)})


def read_facts(dataset: lance.LanceDataset) -> Facts:
    """The facts of the dataset's version; empty when it was not written by this package.

    Raises:
        DamagedError: they are not what was written.
        LaterFormatError: a later version of this package has written them.
    """
    metadata = dataset.schema.metadata or {}
    raw = metadata.get(FACTS_KEY, b"{}")
    # Tables of earlier releases have no digest.
    if metadata.get(_DIGEST_KEY, _digest(raw)) != _digest(raw):
        raise DamagedError(
            f"the manifest of version {dataset.version} of {dataset.uri} is damaged: what it says of the rows is not "
            f"what was written. To see how to repair it, run: {verify_command(dataset.uri)}"
        )
    facts = json.loads(raw)
    where = f"version {dataset.version} of the Lance dataset {dataset.uri}"
    found = facts.pop(FORMAT_KEY, FIRST_FORMAT)
    require_known_format(found, FACTS_FORMAT, where, "move the dataset away and materialize again")
    return facts


def _digest(raw: bytes) -> bytes:
    return xxhash.xxh3_64_hexdigest(raw).encode()


def find_table(uri: str) -> lance.LanceDataset | None:
    """The latest version of the dataset at ``uri``, or None where there is none.

    Raises:
        InputError: the object store cannot be reached, or refuses.
        DamagedError: the dataset cannot be read.
    """
    if not is_remote(uri) and not os.path.isdir(uri):
        return None
    try:
        return _opened(uri, None)
    except TableNotFoundError:
        return None


def is_table(uri: str) -> bool:
    """Whether there is a table, be it damaged.

    Raises:
        InputError: the object store cannot be reached, or refuses.
    """
    if is_remote(uri):
        return find_table(uri) is not None
    return any(os.path.isdir(os.path.join(uri, name)) for name in ("_versions", "data"))


def set_aside(uri: str) -> str:
    """Move a damaged table out of the way of a new one; returns where it is now, ``<uri>.damaged-<n>``.

    The caller holds the lock of the table, if it has one. Nothing is deleted.

    Raises:
        InputError: it cannot be moved.
    """
    store, path = filesystem(uri)
    place = free_place(uri)
    try:
        if is_remote(uri):
            target = filesystem(place)[1]
            pafs.copy_files(path, target, source_filesystem=store, destination_filesystem=store)
            store.delete_dir(path)
        else:
            os.rename(path, place)
    except OSError as error:
        raise InputError(f"cannot move the damaged Lance dataset {uri} aside: {error}. Move or delete it.") from error
    return place


def free_place(uri: str) -> str:
    """The first ``<uri>.damaged-<n>`` that is not there yet."""
    places = (f"{uri}.damaged-{number}" for number in count(1))
    store, _ = filesystem(uri)
    return next(place for place in places if store.get_file_info(filesystem(place)[1]).type == _NOT_FOUND)


def find_replaceable(
    uri: str, intact: Callable[[lance.LanceDataset], bool] = lambda stored: True
) -> lance.LanceDataset | None:
    """As :func:`find_table`, for a table that its writer can make again: a damaged one is set aside.

    Args:
        uri: of the table.
        intact: whether the latest version holds what was written; it may also raise what reading raises.

    Raises:
        InputError: the table cannot be reached, or cannot be moved.
    """
    try:
        found = find_table(uri)
        if found is None and (is_remote(uri) or not os.path.isdir(os.path.join(uri, "_versions"))):
            return None
        # Lance takes a table whose manifests were deleted for none, and opens one whose manifest was overwritten with
        # zeros as one without columns.
        if found is not None and found.schema.names and _rows(found) == found.count_rows() and intact(found):
            return found
        reason = "it does not hold what was written"
    except BaseException as error:
        if not is_damage(error):
            raise
        reason = brief(error)
    _logger.warning(
        "The Lance dataset %s is damaged (%s). It is made again; what was left of it is now at %s.",
        uri,
        reason,
        set_aside(uri),
    )
    return None


def _rows(stored: lance.LanceDataset) -> int:
    """How many rows can be read."""
    return sum(len(batch) for batch in stored.to_batches())


def open_table(uri: str, version: int | None = None) -> lance.LanceDataset:
    """Open the dataset at ``uri``, at ``version`` or the latest.

    Raises:
        InputError: no dataset, or no such version, is there.
        DamagedError: the dataset cannot be read.
    """
    return _opened(uri, version)


def _opened(uri: str, version: int | None) -> lance.LanceDataset:
    try:
        reach(uri)
        dataset = lance.dataset(uri, version=version, storage_options=storage_options(uri))
    except BaseException as error:
        if not is_unreadable(error):
            raise
        if "not found" in str(error).lower() and isinstance(error, ValueError | FileNotFoundError):
            raise TableNotFoundError(uri, version) from error
        raise unreadable(uri, version, error) from error
    if dataset.version < 1:
        # What Lance makes of a manifest of zeros.
        raise unreadable(uri, version, ValueError("its manifest is empty"))
    return dataset


class TableNotFoundError(InputError):
    """There is no such dataset, or no such version of it."""

    def __init__(self, uri: str, version: int | None) -> None:
        which = "no Lance dataset" if version is None else f"no version {version} of a Lance dataset"
        super().__init__(f"there is {which} at {uri}. Materialize the asset that writes it.")


def make_parent(uri: str) -> None:
    """Make the folder that ``uri`` is in, where it is a path.

    Raises:
        OSError: it cannot be made.
    """
    if not is_remote(uri):
        os.makedirs(os.path.dirname(os.path.abspath(uri)), exist_ok=True)


def cannot_write(uri: str, error: Exception) -> InputError:
    """What to say when a dataset cannot be written."""
    hint = (
        "Check the bucket's name, the AWS_… variables and that the store is up"
        if is_remote(uri)
        else "Check that the disk has room and that the folder may be written; LANCE_PIPELINE_DATA moves all data "
        "elsewhere"
    )
    return InputError(f"cannot write the Lance dataset {uri}: {brief(error)}. {hint}. The previous version is intact.")
