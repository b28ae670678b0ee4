"""Tables whose manifests are damaged: what cannot be read is moved aside, so that the rest can be."""

import logging
import os
import re

import lance

from lance_pipeline.errors import DamagedError
from lance_pipeline.storage.damage import damaged_set
from lance_pipeline.storage.object_store import is_remote
from lance_pipeline.storage.tables import Facts, change_rows, find_table, free_place, read_facts, set_aside

_log = logging.getLogger(__name__)
_MANIFEST = re.compile(r"(\d+)\.manifest")
# Lance numbers manifests down from here, so that the latest version comes first in a listing.
_LAST = 2**64 - 1
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
            manifests = [] if is_remote(uri) else _manifests(uri)
            if not manifests:
                raise
            number, name = max(manifests)
            _log.warning("%s Version %d is lost; its manifest is now in %s.", error, number, place)
            os.renames(os.path.join(uri, "_versions", name), os.path.join(place, "_versions", name))
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
    transactions = os.path.join(uri, "_transactions")
    if not is_remote(uri) and os.path.isdir(transactions) and os.listdir(transactions):
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


def _manifests(uri: str) -> list[tuple[int, str]]:
    """Version and file name of each manifest."""
    folder, found = os.path.join(uri, "_versions"), []
    for name in os.listdir(folder) if os.path.isdir(folder) else []:
        if match := _MANIFEST.fullmatch(name):
            number = int(match[1])
            found.append((number if number < _LAST // 2 else _LAST - number, name))
    return found
