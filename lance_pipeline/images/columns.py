"""Arrow columns of digests and paths, joined."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from numpy.typing import NDArray

Indices = NDArray[np.int64]
Mask = NDArray[np.bool_]
# By name, for the functions of pyarrow.compute are made at run time, unseen by type checkers.
_compute = pc.call_function


def positions(values: pa.Array | pa.ChunkedArray, among: pa.Array | pa.ChunkedArray) -> Indices:
    """Where each value stands first in ``among``, -1 where it does not."""
    if isinstance(among, pa.ChunkedArray):
        among = among.combine_chunks()
    return _compute("index_in", [values], pc.SetLookupOptions(among)).fill_null(-1).to_numpy().astype(np.int64)


def equal(one: pa.ChunkedArray, other: pa.Array | pa.ChunkedArray) -> Mask:
    """Where two columns are equal; a null equals nothing."""
    return _compute("equal", [one, other]).fill_null(False).to_numpy()


def order_of_path_hash(paths: pa.ChunkedArray) -> Indices:
    """The order in which rows are stored: any stretch of it is a fair sample."""
    # Chunk by chunk: as Python objects all paths would take several times their memory.
    keys = [
        np.array([xxhash.xxh3_64_intdigest(path.encode()) for path in chunk.to_pylist()], dtype=np.uint64)
        for chunk in paths.chunks
    ]
    return np.argsort(np.concatenate([np.empty(0, np.uint64), *keys]), kind="stable")


def first_valid(*columns: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Of each row the first value that is not null, as binary."""
    found = _compute("coalesce", [column.cast(pa.binary()) for column in columns])
    return found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found
