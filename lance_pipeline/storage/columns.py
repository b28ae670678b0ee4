"""Lookups and comparisons on Arrow columns of digests and paths."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from numpy.typing import NDArray

from lance_pipeline.errors import InputError

Indices = NDArray[np.int64]
Mask = NDArray[np.bool_]
# Called by name: pyarrow.compute creates its functions at run time, where type checkers cannot see them.
_compute = pc.call_function
# Values per slice. Python objects take ten times the memory of Arrow columns, and their memory is not always released.
_SLICE = 1 << 14


def require_column(schema: pa.Schema, name: str, uri: str, option: str) -> pa.Field:
    """The field of a column.

    Args:
        schema: the schema of a dataset.
        name: the column.
        uri: the dataset.
        option: the argument that names another column.

    Raises:
        InputError: there is no such column.
    """
    if name not in schema.names:
        raise InputError(
            f"{uri} has no column {name!r}; its columns are {', '.join(schema.names)}. Name another one with {option}."
        )
    return schema.field(name)


def positions(values: pa.Array | pa.ChunkedArray, among: pa.Array | pa.ChunkedArray) -> Indices:
    """The first position of each value in ``among``, or -1 if it is absent."""
    if isinstance(among, pa.ChunkedArray):
        among = among.combine_chunks()
    return _compute("index_in", [values], pc.SetLookupOptions(among)).fill_null(-1).to_numpy().astype(np.int64)


def equal(one: pa.ChunkedArray, other: pa.Array | pa.ChunkedArray) -> Mask:
    """Whether each pair of values is equal; a null equals nothing."""
    return _compute("equal", [one, other]).fill_null(False).to_numpy()


def slices_of(column: pa.Array | pa.ChunkedArray) -> Iterator[list[Any]]:
    """The values of a column as lists of Python objects, slice by slice."""
    return (column.slice(start, _SLICE).to_pylist() for start in range(0, len(column), _SLICE))


def order_of_path_hash(paths: pa.ChunkedArray) -> Indices:
    """The order in which rows are stored: any slice of it is a random sample."""
    keys = [
        np.array([xxhash.xxh3_64_intdigest(path.encode()) for path in some], dtype=np.uint64)
        for some in slices_of(paths)
    ]
    return np.argsort(np.concatenate([np.empty(0, np.uint64), *keys]), kind="stable")


def first_valid(*columns: pa.Array | pa.ChunkedArray) -> pa.Array:
    """The first value of each row that is not null, as binary."""
    found = _compute("coalesce", [column.cast(pa.binary()) for column in columns])
    return found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found
