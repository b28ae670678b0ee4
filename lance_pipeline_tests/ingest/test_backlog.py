"""The files left to read: on disk, in their order, and out of memory during the work."""

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

MOST, NBYTES = 3, 1000


def listed(sizes: list[int]) -> pa.Table:
    count = len(sizes)
    labels = pa.array([f"label {number % 3}" for number in range(count)]).dictionary_encode()
    paths, times = [f"{number}.png" for number in range(count)], list(range(count))
    return pa.table({"path": paths, "label": labels, "size": pa.array(sizes, pa.int64()), "mtime_ns": times})


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(0, 2 * NBYTES), min_size=1, max_size=60),
    seed=st.integers(0, 100),
    share=st.floats(0, 1),
    memory=st.sampled_from([0, 1 << 20]),
)
def test_each_file_comes_once_in_the_order_asked_for(sizes, seed, share, memory):
    files = listed(sizes)
    todo = np.random.default_rng(seed).permutation(len(sizes))[: int(share * len(sizes))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BATCH_FILES", 7)
        patch.setattr(module, "_MEMORY_BYTES", memory)
        with Backlog(files, todo) as backlog:
            assert (backlog.files, backlog.nbytes) == (len(todo), sum(sizes[place] for place in todo))
            stretches = list(backlog.stretches(MOST, NBYTES))
    assert all(len(one) == 1 or sum(one["size"].to_pylist()) <= NBYTES for one in stretches)
    assert all(1 <= len(one) <= MOST for one in stretches)
    rows = [row for one in stretches for row in one.to_pylist()]
    assert [row.pop("position") for row in rows] == todo.tolist()
    assert rows == files.take(pa.array(todo)).to_pylist()


def test_a_disk_without_room_is_named(small_disk, monkeypatch):
    disk = small_disk("64k")
    monkeypatch.setattr(tempfile, "tempdir", str(disk))
    count = 40_000
    with pytest.raises(InputError, match=rf"40000 files .*No space left.*{disk}.*TMPDIR"):
        Backlog(listed([1] * count), np.arange(count))
    assert list(disk.iterdir()) == []


class Begun(Exception):  # noqa: N818
    """Raised when the work begins."""


def test_the_names_of_all_files_are_let_go_of_before_the_work(tmp_path):
    count, name = 20_000, "a" * 200

    def files() -> pa.Table:
        return listed([1] * count).set_column(0, "path", pa.array([f"{name}{number}" for number in range(count)]))

    def begun(done: int, total: int) -> None:
        assert (done, total) == (0, count)
        raise Begun(pa.total_allocated_bytes())

    source = IngestSource(str(tmp_path), "train", files, None, FixedSplit("train"), str(tmp_path / "seen"))
    before = pa.total_allocated_bytes()
    with pytest.raises(Begun) as raised:
        ingest(source, {"train": str(tmp_path / "train.lance")}, watch=Watch(progress=begun))
    assert raised.value.args[0] - before < count * len(name) / 4
