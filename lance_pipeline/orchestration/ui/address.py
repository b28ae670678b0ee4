"""The address of this data folder's UI, for links on its own pages and in the terminal."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lance_pipeline.orchestration.paths import DATA_VARIABLE, data_root, make_folder, project_root
from lance_pipeline.storage.locking import first_free, read_note, try_lock

HOST = "127.0.0.1"
DEFAULT_PORT = 3000
MLFLOW_PATH = "/mlflow"
"""Prefix of links to MLflow. It has no host, so links lead to the host and port by which the page was opened."""


@contextmanager
def announce(port: int) -> Iterator[None]:
    """Within the context, processes of the same data folder find the UI at this loopback port.

    Raises:
        InputError: the data folder cannot be written.
    """
    path = make_folder(_folder()) / f"{port}.lock"
    with first_free([str(path)], DATA_VARIABLE, str, lambda text: None) as lock:
        lock.note(f"http://{HOST}:{port}")
        yield


def running_ui() -> str | None:
    """The address of the most recently started UI of this data folder; None if none runs.

    Raises:
        InputError: a file in the data folder cannot be used.
    """
    for path in sorted(_folder().glob("*.lock"), key=lambda path: -path.stat().st_mtime):
        lock = try_lock(path, DATA_VARIABLE)
        if lock is not None:
            lock.release()
        elif address := read_note(str(path)):
            return address
    return None


def to_open(link: str) -> str:
    """A link for the terminal: below the address of the running UI, or with the command that starts one.

    Raises:
        InputError: a file in the data folder cannot be used.
    """
    return " ".join([address_of(link), *(f"({hint})" for hint in start_hint(link))])


def address_of(link: str) -> str:
    """The full address of a link, below the running UI or the one that `start_hint` starts."""
    return (running_ui() or f"http://{HOST}:{DEFAULT_PORT}") + link if link.startswith("/") else link


def start_hint(link: str) -> list[str]:
    """How to start the UI, if a link needs it and none runs."""
    if not link.startswith("/") or running_ui():
        return []
    return [f"once `{'make ui' if (project_root() / 'Makefile').is_file() else 'lance-pipeline ui'}` runs"]


def _folder() -> Path:
    return data_root() / "dagster" / "ui"
