"""Recovery of tables with damaged manifests: unreadable versions are moved aside so that the others can be read."""

import logging

import lance

from lance_pipeline.errors import DamagedError
from lance_pipeline.storage.facts import Facts, read_facts
from lance_pipeline.storage.lance_files import free_place, manifests, move_manifest, set_aside, was_committed
from lance_pipeline.storage.object_store import is_remote
from lance_pipeline.storage.table_errors import damaged_version
from lance_pipeline.storage.tables import change_rows, find_table

_log = logging.getLogger(__name__)
_REPLACEMENT = "replaces_lost_version"


def recover_table(uri: str) -> lance.LanceDataset | None:
    """Move aside the damaged manifests of the latest versions, and open the latest version that remains.

    Lost version numbers are not reused: for each of them the remaining version is committed again, marked as a
    replacement.

    Returns:
        The dataset; None if no version can be read.

    Raises:
        DamagedError: the table is in an object store, where nothing is moved.
    """
    place, last = free_place(uri), 0
    while True:
        try:
            found = find_table(uri)
            facts = {} if found is None else read_facts(found)
        except DamagedError as error:
            if is_remote(uri) or not (there := manifests(uri)):
                raise
            number, name = max(there)
            _log.warning("%s Version %d is lost; its manifest is now in %s.", error, number, place)
            move_manifest(uri, name, place)
            last = max(last, number)
            continue
        while found is not None and found.version < last:
            found = change_rows(found, {}, [], facts | {_REPLACEMENT: True})
        return found


def set_aside_remains(uri: str) -> None:
    """Move aside a table that has lost all its manifests; a table that was never committed is left in place.

    Raises:
        InputError: it cannot be moved.
    """
    if not is_remote(uri) and was_committed(uri):
        _log.warning(
            "%s has no readable version. It will be written again; its files are now in %s.", uri, set_aside(uri)
        )


def require_original(uri: str, version: int, facts: Facts) -> None:
    """Check that a version is not a replacement for a lost one.

    Raises:
        DamagedError: it is.
    """
    if facts.get(_REPLACEMENT):
        raise damaged_version(uri, version, "it was lost, and the version before it was committed in its place")
