"""Columns of a split that follow from its other columns: the place to add one.

An ingest computes them for new rows, and adds one that a stored dataset lacks to all of its rows, from what is stored:
no file is read again, and the content, its fingerprint and what was trained on it stay as they are.
"""

from collections.abc import Callable
from typing import NamedTuple

import lance
import pyarrow as pa

from lance_pipeline.storage.schema import SPLIT_SCHEMA
from lance_pipeline.storage.table_errors import reading, write_error


class DerivedColumn(NamedTuple):
    """A column and how it is computed.

    Attributes:
        field: its name, type and, as metadata ``description``, what it holds; never null.
        reads: the columns of SPLIT_SCHEMA that it follows from, such as ``image``.
        compute: takes a batch with these columns, gives a value for each row.
    """

    field: pa.Field
    reads: tuple[str, ...]
    compute: Callable[[pa.RecordBatch], pa.Array]


DERIVED_COLUMNS: tuple[DerivedColumn, ...] = ()
"""All there are, in the order of the columns."""


def split_schema() -> pa.Schema:
    """SPLIT_SCHEMA with the derived columns: what an ingest writes."""
    schema = SPLIT_SCHEMA
    for column in DERIVED_COLUMNS:
        schema = schema.append(column.field)
    return schema


def with_derived_columns(rows: pa.RecordBatch) -> pa.RecordBatch:
    """A batch of SPLIT_SCHEMA as one of :func:`split_schema`."""
    for column in DERIVED_COLUMNS:
        rows = rows.append_column(column.field, column.compute(rows.select(column.reads)))
    return rows


def add_missing_columns(dataset: lance.LanceDataset) -> bool:
    """Add the derived columns that a stored split lacks, each as one commit; whether there were any.

    The caller holds the lock of the dataset.

    Raises:
        DamagedError: what they follow from cannot be read.
        ConflictError: somebody else committed in between.
        InputError: the dataset cannot be written.
    """
    missing = [column for column in DERIVED_COLUMNS if column.field.name not in dataset.schema.names]
    for column in missing:
        schema = pa.schema([column.field])

        def computed(
            batch: pa.RecordBatch, column: DerivedColumn = column, schema: pa.Schema = schema
        ) -> pa.RecordBatch:
            return pa.record_batch([column.compute(batch)], schema=schema)

        with reading(dataset.uri, dataset.version):
            try:
                dataset.add_columns(lance.batch_udf(schema)(computed), list(column.reads))
            except OSError as error:
                raise write_error(dataset.uri, error) from error
    return bool(missing)
