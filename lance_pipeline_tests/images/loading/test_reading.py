"""Windows of encoded images."""

import numpy as np
import pyarrow as pa
import pytest

from lance_pipeline.images.loading.reading import EncodedRows


def column(*values: bytes) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(values, pa.large_binary())])


@pytest.mark.parametrize(
    "images",
    [
        [column(b"one", b"three", b"five")],
        [column(b"one"), column(b"three", b"five")],
        [column(b"one", b"three", b"five").slice(0)],
    ],
)
def test_rows_are_found_and_others_are_told(images: list[pa.ChunkedArray]):
    rows = EncodedRows(np.array([1, 3, 5]), images)
    assert rows.take(np.array([3, 5, 1, 3])) == [b"three", b"five", b"one", b"three"]
    # What another process has put into the cache meanwhile is not there, and must not be taken for its neighbour.
    assert rows.has(np.array([3, 0, 5, 4, 1, 6])).tolist() == [True, False, True, False, True, False]


def test_nothing_was_asked_for():
    assert EncodedRows(np.empty(0, np.int64), []).has(np.array([2, 0])).tolist() == [False, False]
