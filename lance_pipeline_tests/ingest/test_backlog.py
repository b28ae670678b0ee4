"""The files left to read are kept on disk, in order, and not in memory."""

import tempfile

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lance_pipeline.errors import InputError
from lance_pipeline.ingest import backlog as module
from lance_pipeline.ingest.backlog import Backlog
from lance_pipeline.ingest.ingestion import IngestSource, Watch, ingest
from lance_pipeline.sources.split_assignment import FixedSplit

MAX_FILES, MAX_BYTES = 3, 1000


def listing(sizes: list[int]) -> pa.Table:
    count = len(sizes)
    labels = pa.array([f"label {number % 3}" for number in range(count)]).dictionary_encode()
    paths, times = [f"{number}.png" for number in range(count)], list(range(count))
    return pa.table({"path": paths, "label": labels, "size": pa.array(sizes, pa.int64()), "mtime_ns": times})


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(0, 2 * MAX_BYTES), min_size=1, max_size=60),
    seed=st.integers(0, 100),
    share=st.floats(0, 1),
    memory=st.sampled_from([0, 1 << 20]),
)
def test_each_file_comes_once_in_the_requested_order(sizes, seed, share, memory):
    files = listing(sizes)
    todo = np.random.default_rng(seed).permutation(len(sizes))[: int(share * len(sizes))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BATCH_FILES", 7)
        patch.setattr(module, "_MEMORY_BYTES", memory)
        with Backlog(files, todo) as backlog:
            assert (backlog.files, backlog.nbytes) == (len(todo), sum(sizes[place] for place in todo))
            batches = list(backlog.batches(MAX_FILES, MAX_BYTES))
    assert all(len(batch) == 1 or sum(batch["size"].to_pylist()) <= MAX_BYTES for batch in batches)
    assert all(1 <= len(batch) <= MAX_FILES for batch in batches)
    rows = [row for batch in batches for row in batch.to_pylist()]
    assert [row.pop("position") for row in rows] == todo.tolist()
    assert rows == files.take(pa.array(todo)).to_pylist()


def test_full_disk_is_an_error_that_names_the_folder(small_disk, monkeypatch):
    disk = small_disk("64k")
    monkeypatch.setattr(tempfile, "tempdir", str(disk))
    count = 40_000
    with pytest.raises(InputError, match=rf"40000 .*No space left.*{disk}.*TMPDIR"):
        Backlog(listing([1] * count), np.arange(count))
    assert list(disk.iterdir()) == []


class Started(Exception):  # noqa: N818
    """Raised when the ingest starts to read files."""


def test_file_names_are_freed_before_reading(tmp_path):
    count, name = 20_000, "a" * 200

    def files() -> pa.Table:
        return listing([1] * count).set_column(0, "path", pa.array([f"{name}{number}" for number in range(count)]))

    def stop_at_start(done: int, total: int) -> None:
        assert (done, total) == (0, count)
        raise Started(pa.total_allocated_bytes())

    source = IngestSource(str(tmp_path), "train", files, None, FixedSplit("train"), str(tmp_path / "seen"))
    before = pa.total_allocated_bytes()
    with pytest.raises(Started) as raised:
        ingest(source, {"train": str(tmp_path / "train.lance")}, watch=Watch(progress=stop_at_start))
    assert raised.value.args[0] - before < count * len(name) / 4
