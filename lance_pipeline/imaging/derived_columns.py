"""Columns of a split that are computed from its other columns. New ones are added here.

An ingest computes them for new rows. If a stored dataset lacks one, the ingest adds it to all rows from the stored
columns: no file is read again, and the content, its fingerprint and models trained on it are not affected.
"""

from collections.abc import Callable
from typing import NamedTuple

import lance
import pyarrow as pa

from lance_pipeline.errors import InputError
from lance_pipeline.storage.schema import SPLIT_SCHEMA
from lance_pipeline.storage.table_errors import reading, write_error
from lance_pipeline.storage.tables import open_table


class DerivedColumn(NamedTuple):
    """A column and how it is computed.

    Attributes:
        field: its name, type and, as metadata ``description``, its meaning; never null.
        reads: the columns of SPLIT_SCHEMA that it is computed from, such as ``image``.
        compute: takes a batch of these columns and returns one value per row.
    """

    field: pa.Field
    reads: tuple[str, ...]
    compute: Callable[[pa.RecordBatch], pa.Array]


DERIVED_COLUMNS: tuple[DerivedColumn, ...] = ()
"""All derived columns, in column order."""


def split_schema() -> pa.Schema:
    """The schema that an ingest writes: SPLIT_SCHEMA with the derived columns."""
    schema = SPLIT_SCHEMA
    for column in DERIVED_COLUMNS:
        schema = schema.append(column.field)
    return schema


def with_columns_of(rows: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The columns of a schema that an ingest writes; derived ones that the rows lack are computed."""
    for column in DERIVED_COLUMNS:
        if column.field.name in schema.names and column.field.name not in rows.schema.names:
            rows = rows.append_column(column.field, column.compute(rows.select(column.reads)))
    return rows.select(schema.names)


def require_own_columns(dataset: lance.LanceDataset) -> None:
    """Check that no other tool's column has the name of a derived one.

    Raises:
        InputError: one has.
    """
    for field in (column.field for column in DERIVED_COLUMNS if column.field.name in dataset.schema.names):
        found = dataset.schema.field(field.name)
        # Other tools add columns without a description.
        if found.type != field.type or b"description" not in (found.metadata or {}):
            renamed = {"path": field.name, "name": f"my_{field.name}"}
            raise InputError(
                f"{dataset.uri} has a column {field.name!r} of another tool, and an ingest adds one of that name. "
                f"Rename it, and run again: `lance.dataset({dataset.uri!r}).alter_columns({renamed})`."
            )


def add_missing_columns(dataset: lance.LanceDataset) -> lance.LanceDataset:
    """Add the derived columns that a stored split lacks, in one commit.

    The caller holds the lock of the dataset.

    Returns:
        The dataset with all columns.

    Raises:
        DamagedError: the columns that they are computed from cannot be read.
        ConflictError: another writer committed in between.
        InputError: the dataset cannot be written.
    """
    missing = [column for column in DERIVED_COLUMNS if column.field.name not in dataset.schema.names]
    if not missing:
        return dataset
    schema = pa.schema([column.field for column in missing])

    def computed(rows: pa.RecordBatch) -> pa.RecordBatch:
        return pa.record_batch([column.compute(rows.select(column.reads)) for column in missing], schema=schema)

    with reading(dataset.uri, dataset.version):
        try:
            dataset.add_columns(
                lance.batch_udf(schema)(computed), sorted({name for one in missing for name in one.reads})
            )
        except OSError as error:
            raise write_error(dataset.uri, error, dataset.version) from error
    return open_table(dataset.uri)
