"""Columns that other tools add to our tables, such as embeddings or notes, and ours that they change.

Foreign columns stay; rows that are written later have nulls in them.
"""

from collections.abc import Collection
from contextlib import suppress
from typing import Any

import lance
import pyarrow as pa

from lance_pipeline.errors import InputError
from lance_pipeline.storage.table_errors import ConflictError, write_error
from lance_pipeline.storage.tables import open_table


def require_columns(dataset: lance.LanceDataset, columns: pa.Schema) -> None:
    """Check that another tool has not dropped, renamed or converted these columns.

    Raises:
        InputError: it has; the message names the columns, and the latest version that has them.
    """
    if not (wrong := _changed_columns(dataset, columns)):
        return
    listed = "; ".join(f"{name!r} {problem}" for name, problem in wrong.items())
    whole = _latest_version_with(dataset, columns)
    todo = (
        f"Rename or drop your columns of these names, and run again; or move {dataset.uri} away to ingest again"
        if whole is None
        else f"Version {whole} has them as they were: `lance.dataset({dataset.uri!r}, version={whole}).restore()` "
        "makes it the latest version again"
    )
    raise InputError(f"another tool has changed columns of {dataset.uri}, version {dataset.version}: {listed}. {todo}.")


def allow_nulls(dataset: lance.LanceDataset, columns: Collection[str]) -> lance.LanceDataset:
    """Make all columns but these nullable, so that rows without them can be added; a version of its own if needed.

    The caller holds the lock of the dataset.

    Raises:
        ConflictError: another writer committed in between.
        InputError: the dataset cannot be written.
    """
    strict = [field.name for field in dataset.schema if field.name not in columns and not field.nullable]
    if not strict:
        return dataset
    # Lance's own type of an alteration demands keys that it refuses.
    alterations: list[Any] = [{"path": f"`{name}`", "nullable": True} for name in strict]
    changed = open_table(dataset.uri, dataset.version)
    try:
        changed.alter_columns(*alterations)
    except OSError as error:
        raise write_error(dataset.uri, error, dataset.version) from error
    if changed.version != dataset.version + 1:
        raise ConflictError(f"version {dataset.version} of {dataset.uri} is no longer the latest")
    return changed


def _changed_columns(dataset: lance.LanceDataset, columns: pa.Schema) -> dict[str, str]:
    """What is wrong with each column that is not as expected."""
    schema, wrong = dataset.schema, {}
    for field in columns:
        if field.name not in schema.names:
            wrong[field.name] = "is missing"
        elif (found := schema.field(field.name).type) != field.type:
            wrong[field.name] = f"has the type {found}, not {field.type}"
    return wrong


def _latest_version_with(dataset: lance.LanceDataset, columns: pa.Schema) -> int | None:
    """The latest version that has all of these columns; None if there is none."""
    for number in sorted((one["version"] for one in dataset.versions()), reverse=True):
        with suppress(InputError):
            if not _changed_columns(open_table(dataset.uri, number), columns):
                return number
    return None
