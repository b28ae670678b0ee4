"""Several ranks get the same number of batches, none of them empty, and together every row once."""

import functools
import tempfile
from collections.abc import Callable, Iterator
from itertools import islice

import lance
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lance_pipeline.errors import InputError
from lance_pipeline.images import CachePlace, ImageLoader
from lance_pipeline_tests.image_folders import class_image, encoded

PNG = encoded(class_image(0, np.random.default_rng(0)))
BAD = b"no image"


def write(uri: str, images: list[bytes]) -> str:
    """Write a dataset in which the label of a row is its number."""
    lance.write_dataset(pa.table({"image": pa.array(images, pa.binary()), "label": range(len(images))}), uri)
    return uri


@pytest.fixture(scope="module")
def dataset() -> Iterator[Callable[[int], str]]:
    """Returns a dataset of some number of rows."""
    with tempfile.TemporaryDirectory() as folder:
        yield functools.cache(lambda rows: write(f"{folder}/{rows}.lance", [PNG] * rows))


def loader(uri: str, **options) -> ImageLoader:
    return ImageLoader(uri, **({"image_size": 8, "training": True, "threads": 1, "cache": None} | options))


def labels_of(batches) -> list[list[int]]:
    return [labels.tolist() for _, labels in batches]


@st.composite
def shares(draw) -> dict[str, int]:
    world_size = draw(st.integers(1, 6))
    return {"rows": draw(st.integers(0, 30)), "world_size": world_size, "batch_size": draw(st.integers(world_size, 12))}


@settings(max_examples=60, deadline=None)
@given(share=shares(), drop_last=st.booleans(), training=st.booleans(), taken=st.integers(0, 4))
def test_all_ranks_get_as_many_batches_and_together_every_row_once(dataset, share, drop_last, training, taken):
    rows, world, size = share["rows"], share["world_size"], share["batch_size"]
    options = {"batch_size": size, "world_size": world, "drop_last": drop_last, "training": training}
    if 0 < rows < world and not drop_last:
        with pytest.raises(InputError, match=f"{rows} rows.*{world} ranks"):
            loader(dataset(rows), **options)
        return
    ranks = [loader(dataset(rows), rank=rank, **options) for rank in range(world)]
    parts = [labels_of(one) for one in ranks]
    rest = rows % size
    dropped = rest if drop_last or rest < world else 0
    expected = rows // size + (rest > dropped)
    assert [len(one) for one in ranks] == [len(part) for part in parts] == [expected] * world
    assert all(labels for part in parts for labels in part)
    assert all(len(labels) <= -(-size // world) for part in parts for labels in part)
    found = sorted(row for part in parts for labels in part for row in labels)
    assert len(found) == len(set(found)) == rows - dropped
    assert set(found) <= set(range(rows))
    if not training:
        assert found == list(range(rows - dropped))
    for rank, part in enumerate(parts):
        stopped, resumed = (loader(dataset(rows), rank=rank, **options) for _ in range(2))
        list(islice(stopped, taken))
        resumed.load_state_dict(stopped.state_dict())
        assert labels_of(resumed) == (part[taken:] or part)


@pytest.mark.parametrize(("batch_size", "world_size"), [(1, 2), (3, 4)])
def test_batch_size_below_the_world_size(dataset, batch_size, world_size):
    with pytest.raises(ValueError, match=rf"batch_size {batch_size}\b.*world_size {world_size}\b"):
        loader(dataset(9), batch_size=batch_size, world_size=world_size)


def test_rows_left_out_are_said_once_and_differ_between_epochs(dataset, caplog):
    one = loader(dataset(9), batch_size=4, world_size=4)
    seen = []
    for epoch in range(20):
        parts = [loader(dataset(9), batch_size=4, world_size=4, rank=rank) for rank in range(4)]
        for part in parts:
            part.set_epoch(epoch)
        seen += [row for part in parts for labels in labels_of(part) for row in labels]
    assert set(seen) == set(range(9))
    caplog.clear()
    one = loader(dataset(9), batch_size=4, world_size=4)
    assert labels_of(one) == labels_of(one)
    assert ["1 of 9 rows" in record.getMessage() for record in caplog.records if record.levelname == "WARNING"].count(
        True
    ) == 1


@pytest.mark.parametrize("cached", [False, True])
def test_a_cache_fills_although_rows_are_dropped(dataset, tmp_path, cached):
    """Dropped rows are not read, and the next epochs, which drop others, complete the cache."""
    options = {"batch_size": 4, "drop_last": True, "cache": CachePlace(str(tmp_path)) if cached else None}
    one = loader(dataset(30), **options)
    for epoch in range(4):
        one.set_epoch(epoch)
        assert [len(labels) for labels in labels_of(one)] == [4] * 7
    assert one.mode.startswith("cached in") == cached


@pytest.mark.parametrize("device_finishes", [False, True])
def test_batch_without_a_good_image_is_left_out_or_an_error(tmp_path, device_finishes):
    uri = write(str(tmp_path / "bad.lance"), [PNG, PNG, BAD, BAD, PNG, PNG])
    options = {"batch_size": 2, "training": False, "on_bad_image": "skip"}
    if device_finishes:
        options["device"] = "meta"
    one = loader(uri, **options)
    assert [len(labels) for _, labels in one] == [2, 2]
    assert one.state_dict()["next_batch"] == len(one) == 3
    assert one.take_stats().skipped == 2
    # Other ranks would wait for a missing batch for ever.
    for rank in (0, 1):
        with pytest.raises(InputError, match=rf"rank {rank}\b.*batch 1\b.*bad\.lance"):
            list(loader(uri, **options, rank=rank, world_size=2))
