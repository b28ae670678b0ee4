"""Tables whose manifests are damaged: what cannot be read is moved aside, so that the rest can be."""

import logging

import lance

from lance_pipeline.errors import DamagedError
from lance_pipeline.storage.facts import Facts, read_facts
from lance_pipeline.storage.lance_files import free_place, manifests, move_manifest, set_aside, was_committed
from lance_pipeline.storage.object_store import is_remote
from lance_pipeline.storage.table_errors import damaged_set
from lance_pipeline.storage.tables import change_rows, find_table

_log = logging.getLogger(__name__)
_REPLACEMENT = "replaces_lost_version"


def recovered_table(uri: str) -> lance.LanceDataset | None:
    """The latest version of a table that can be opened, once those behind it are moved aside; None if there is none.

    The numbers of lost versions are not used again: for each the version before is committed once more, marked as its
    replacement.

    Raises:
        DamagedError: the table is in an object store, where nothing is moved.
    """
    place, last = free_place(uri), 0
    while True:
        try:
            found = find_table(uri)
            facts = {} if found is None else read_facts(found)
        except DamagedError as error:
            there = [] if is_remote(uri) else manifests(uri)
            if not there:
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
    """Move aside what is left of a table that has lost all its manifests; a table that was never committed stays.

    Raises:
        InputError: it cannot be moved.
    """
    if not is_remote(uri) and was_committed(uri):
        _log.warning(
            "%s has no version that can be read; it is made again, and its files are now in %s.", uri, set_aside(uri)
        )


def require_original(uri: str, version: int, facts: Facts) -> None:
    """Raise if a version only takes the place of a lost one.

    Raises:
        DamagedError: it does.
    """
    if facts.get(_REPLACEMENT):
        raise damaged_set(uri, version, "it was lost, and the version before it has taken its place")
