"""Lance's files on disk, where its API is not enough: deletion files, manifests, orphans, damaged tables."""

import json
import logging
import os
import re
import secrets
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
from lance.fragment import DeletionFile, FragmentMetadata
from lance.schema import LanceSchema
from numpy.typing import NDArray

from lance_pipeline.storage.object_store import filesystem, is_remote, join_uri, store_failure, write_whole
from lance_pipeline.storage.table_errors import brief, cannot_write, is_damage, is_unreadable
from lance_pipeline.storage.whole_files import TEMPORARY

_logger = logging.getLogger(__name__)
_FOREVER = timedelta(days=36500)
_NOT_FOUND = pafs.FileType.NotFound
_DELETIONS = pa.schema([pa.field("row_id", pa.uint32(), nullable=False)])
_MANIFEST = re.compile(r"(\d+)\.manifest")
# Lance counts the names of manifests down from here, so that the latest version comes first in a listing.
_LAST = 2**64 - 1
_MANIFEST_END = b"LANC"


def has_manifests(uri: str) -> bool:
    """Whether a folder contains Lance manifests, damaged or not."""
    return os.path.isdir(_versions(uri))


def is_table_folder(uri: str) -> bool:
    """Whether a folder contains a table, damaged or not."""
    return has_manifests(uri) or os.path.isdir(os.path.join(uri, "data"))


def manifests(uri: str) -> list[tuple[int, str]]:
    """The version and file name of each manifest of a table, damaged or not.

    Raises:
        OSError: the object store does not respond, or denies access.
    """
    store, path = filesystem(uri)
    found = []
    for info in store.get_file_info(pafs.FileSelector(_versions(path), allow_not_found=True)):
        name = info.base_name
        if match := _MANIFEST.fullmatch(name):
            number = int(match[1])
            found.append((number if number < _LAST // 2 else _LAST - number, name))
    return found


def move_manifest(uri: str, name: str, target: str) -> None:
    """Move a manifest of a local table to the manifest folder of another one."""
    os.renames(os.path.join(_versions(uri), name), os.path.join(_versions(target), name))


def was_committed(uri: str) -> bool:
    """Whether a local table ever had a version, even if all its manifests are gone."""
    transactions = os.path.join(uri, "_transactions")
    return os.path.isdir(transactions) and bool(os.listdir(transactions))


def _versions(uri: str) -> str:
    return os.path.join(uri, "_versions")


def make_parent(uri: str) -> None:
    """Create the parent folder of ``uri`` if it is a path.

    Raises:
        OSError: it cannot be created.
    """
    if not is_remote(uri):
        os.makedirs(os.path.dirname(os.path.abspath(uri)), exist_ok=True)


def set_aside(uri: str) -> str:
    """Move a damaged table aside and return its new URI, ``<uri>.damaged-<n>``.

    The caller holds the table's lock, if it has one. Nothing is deleted.

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
        failure = f"cannot move the damaged Lance dataset {uri} aside: {error}."
        raise store_failure(uri, error, failure, "Move or delete it") from error
    return place


def free_place(uri: str) -> str:
    """The first ``<uri>.damaged-<n>`` that does not exist yet."""
    places = (f"{uri}.damaged-{number}" for number in count(1))
    store, _ = filesystem(uri)
    return next(place for place in places if store.get_file_info(filesystem(place)[1]).type == _NOT_FOUND)


def fragment_with_rows(
    fragment: lance.LanceFragment, offsets: NDArray[np.uint32], dataset: lance.LanceDataset
) -> FragmentMetadata:
    """The fragment reduced to these rows.

    The deletion file is written here, as an Arrow file of row offsets as in Lance's table format, because
    ``delete_rows`` reports success on a full disk although the file is truncated, and does not support
    deleting all rows of a fragment. A merge must still list such an empty fragment; the commit drops it, and
    its deletion file is never read.
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


def with_metadata(schema: LanceSchema, metadata: dict[bytes, bytes]) -> LanceSchema:
    """The schema with other metadata, and its fields with their ids.

    Lance has no call for this, and ``LanceSchema.from_pyarrow`` numbers the fields again: data files refer to fields by
    their ids, which have gaps after a column was dropped. Pickling keeps them.
    """
    rebuild: Any
    rebuild, (_, *fields) = schema.__reduce__()
    return rebuild(json.dumps({key.decode(): list(value) for key, value in metadata.items()}), *fields)


def remove_orphan_files(dataset: lance.LanceDataset) -> None:
    """Remove local files that belong to no version; the caller holds the dataset's lock.

    In an object store, writers on other hosts may be active: there Lance itself removes such files
    when it cleans up old versions, once they are a week old.

    Raises:
        InputError: the files cannot be removed.
    """
    uri = dataset.uri
    if is_remote(uri):
        return
    try:
        for folder in ("_deletions", "_transactions", "_versions"):
            for name in os.listdir(os.path.join(uri, folder)) if os.path.isdir(os.path.join(uri, folder)) else []:
                path = os.path.join(uri, folder, name)
                if name.startswith(".tmp") or name.endswith(TEMPORARY):
                    os.remove(path)
                elif folder == "_deletions":
                    # Lance treats a deletion file as an orphan only if it is older than all versions.
                    os.utime(path, (0, 0))
        dataset.cleanup_old_versions(_FOREVER, delete_unverified=True, error_if_tagged_old_versions=False)
    except BaseException as error:
        if is_damage(error) or (isinstance(error, OSError) and _has_damaged_version(uri)):
            # The latest version is readable; damage to an older one is no reason to stop.
            _logger.warning(
                "Skipped removing orphaned files of %s: one of its versions is damaged: %s", uri, brief(error)
            )
            return
        if isinstance(error, OSError):
            raise cannot_write(uri, error) from error
        raise


def _has_damaged_version(uri: str) -> bool:
    """Whether a version of a local table is damaged; of a manifest's end, only a clean-up finds damage."""
    for number, name in manifests(uri):
        if not Path(_versions(uri), name).read_bytes().endswith(_MANIFEST_END):
            return True
        try:
            lance.dataset(uri, version=number)
        except BaseException as error:
            if not is_unreadable(error):
                raise
            return True
    return False
