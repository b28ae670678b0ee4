"""The folders below ``defs`` that contain a ``defs.yaml``."""

import os
from collections.abc import Iterator
from pathlib import Path

from lance_pipeline.orchestration.nearest import nearest

FILES = ("defs.yaml", "defs.yml", "component.yaml")
"""File names that Dagster looks for, in this order."""


def component_folders(defs: Path) -> dict[Path, str | None]:
    """The folders that define something, innermost first, each with a problem of the folder itself or None.

    Like Dagster, this skips hidden folders and caches, and follows links.
    """
    found = dict(_component_folders(defs, set()))
    return dict(sorted(found.items(), key=lambda item: (-len(item[0].parts), item[0])))


def yaml_file(folder: Path) -> Path:
    """The file of a folder that Dagster reads; it may not exist."""
    return next((folder / name for name in FILES if os.path.lexists(folder / name)), folder / FILES[0])


def _component_folders(folder: Path, above: set[str]) -> Iterator[tuple[Path, str | None]]:
    real = os.path.realpath(folder)
    if real in above:
        yield folder, f"{folder} is a link to a folder that it lies in. Remove it."
        return
    try:
        with os.scandir(folder) as entries:
            names = {entry.name: entry.is_dir() for entry in entries}
        # Fails for a folder that can be listed but not entered.
        os.stat(folder / ".")
    except OSError as error:
        yield folder, f"{folder}: the folder cannot be read: {error.strerror}. Give yourself the right to read it."
        return
    if not names.keys().isdisjoint(FILES):
        yield folder, None
    elif other := _naming_problem(names):
        yield folder, f"{folder / other}: no file of this name is read. Rename it to {FILES[0]}."
    for name, is_folder in names.items():
        if is_folder and not name.startswith(".") and name not in ("__pycache__", *FILES):
            yield from _component_folders(folder / name, above | {real})


def _naming_problem(names: dict[str, bool]) -> str | None:
    """The probably misnamed definition file of a folder that defines nothing in another way."""
    if any(is_folder or name.endswith(".py") for name, is_folder in names.items()):
        return None
    return next((name for name in names if name.endswith((".yaml", ".yml", ".txt")) and nearest(name, FILES)), None)
