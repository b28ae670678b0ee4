"""Reading windows of encoded images, in parallel and ahead."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from lance_pipeline.loader.load_meter import LoadMeter
from lance_pipeline.loader.read_ahead import EncodedRows, WindowReader
from lance_pipeline.loader.row_metadata import StoredImages
from lance_pipeline.storage.columns import Indices
from lance_pipeline.storage.lance_split import LanceSplit
from lance_pipeline.storage.tables import commit_table
from lance_pipeline_tests.browser.launcher import await_condition
from lance_pipeline_tests.object_store import object_store
from lance_pipeline_tests.slow_link import Link, slow_link

WINDOW, WINDOWS = 8, 4


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
def test_included_rows_are_found_and_others_are_none(images: list[pa.ChunkedArray]):
    rows = EncodedRows(np.array([1, 3, 5]), images)
    assert rows.take(np.array([3, 5, 1, 3])) == [b"three", b"five", b"one", b"three"]
    # Rows that another process has cached meanwhile are not included, and must not be confused with their neighbours.
    assert rows.take(np.array([3, 0, 5, 4, 1, 6])) == [b"three", None, b"five", None, b"one", None]


def test_empty_rows():
    assert EncodedRows(np.empty(0, np.int64), []).take(np.array([2, 0])) == [None, None]


@pytest.fixture
def link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Link]:
    """A slow link to a store with the table ``s3://bucket/train.lance``."""
    with object_store(tmp_path) as store, slow_link(store.endpoint) as link:
        for name, value in store.environment.items():
            monkeypatch.setenv(name, value)
        schema = pa.schema([pa.field("image", pa.binary(), nullable=False)])
        images = pa.array([bytes([row]) * 10_000 for row in range(WINDOW * WINDOWS)], pa.binary())
        commit_table(store.uri("train.lance"), schema, [pa.record_batch([images], schema=schema)], {})
        monkeypatch.setenv("AWS_ENDPOINT_URL", link.url)
        yield link


def test_remote_rows_are_read_in_parallel_and_ahead(link: Link):
    def rows_of(window: int) -> Indices:
        return np.arange(window * WINDOW, min(window + 1, WINDOWS) * WINDOW)

    def values_of(window: int) -> list[int]:
        return [image[0] for image in reader[window].take(rows_of(window)) if image]

    reader = WindowReader(StoredImages(LanceSplit("s3://bucket/train.lance"), None), rows_of, LoadMeter())
    # Reads the file's metadata, which is requested only once.
    assert values_of(WINDOWS - 1) == rows_of(WINDOWS - 1).tolist()
    with ThreadPoolExecutor(1) as pool:
        link.hold()
        first = pool.submit(values_of, 0)
        await_condition(lambda: link.waiting >= WINDOW, 30, "each row of the window is requested")
        link.release()
        assert first.result() == rows_of(0).tolist()
        # The link is also idle between two requests, so only the reader knows when it has everything.
        await_condition(lambda: all(one.done() for one in reader._windows.values()), 30, "the next windows are read")
        link.hold()
        try:
            # Both were read ahead.
            others = pool.submit(lambda: [values_of(1), values_of(2)]).result(timeout=30)
        finally:
            link.release()
    assert others == [rows_of(1).tolist(), rows_of(2).tolist()]
    reader.close()
