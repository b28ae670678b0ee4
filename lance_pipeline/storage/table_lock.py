"""Locks that allow one writer per dataset and host."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager

from lance_pipeline.storage.locking import first_free
from lance_pipeline.storage.private import user_folder
from lance_pipeline.storage.uris import Place, is_remote, normalized_uri


def lock_path(place: Place) -> str:
    """The lock file of a dataset: hidden beside a local dataset, in the user's lock folder for a remote one.

    Raises:
        InputError: the lock folder cannot be used.
    """
    uri = normalized_uri(place)
    if is_remote(uri):
        return str(user_folder() / f"{hashlib.sha256(uri.encode()).hexdigest()[:32]}.lock")
    # A dataset that is a link is locked where it is.
    folder, name = os.path.split(os.path.realpath(uri))
    return os.path.join(folder, f".{name}.lock")


@contextmanager
def locked(places: Iterable[Place], on_wait: Callable[[str], None] = lambda uri: None) -> Iterator[None]:
    """Hold the locks of these datasets; they are released when this process ends, however it ends.

    Writers on other hosts, and other users' writers to a remote dataset, are not excluded: their commits conflict, and
    one of them starts over.

    Args:
        places: the datasets; one that is named twice is locked once.
        on_wait: called once with each dataset that another process is writing to.

    Raises:
        InputError: the folder cannot be written, or the lock file is a link or belongs to another user.
    """
    with ExitStack() as stack:
        # Always in the same order, to prevent deadlocks.
        for uri in sorted(set(map(normalized_uri, places))):
            variable = "XDG_RUNTIME_DIR" if is_remote(uri) else "LANCE_PIPELINE_DATA"
            stack.enter_context(first_free([lock_path(uri)], variable, lambda uri=uri: uri, on_wait))
        yield
