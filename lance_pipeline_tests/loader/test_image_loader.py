import io
import pickle
from itertools import islice

import lance
import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset

from lance_pipeline.errors import InputError
from lance_pipeline.images import CachePlace, ImageLoader, LanceSplit, ingest_split
from lance_pipeline.imaging.decoding import resize_rgb
from lance_pipeline_tests.image_folders import TRAIN_COUNTS, write_image_folder

ROWS = sum(TRAIN_COUNTS.values())
few = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def loader(uri: str, **options) -> ImageLoader:
    return ImageLoader(uri, **({"batch_size": 5, "image_size": 12, "training": True} | options))


def rows(batches) -> list[bytes]:
    """The pixels of each image, which identify the row, because no two rows have the same pixels."""
    return [image.numpy().tobytes() for images, _ in batches for image in images]


@pytest.fixture(scope="session")
def uri(train_uri) -> str:
    return train_uri


@pytest.fixture(scope="session")
def stored(uri) -> dict[bytes, int]:
    """The class index of each row by its pixels, in the stored order."""
    split = LanceSplit(uri)
    table = split.to_table(["image", "label"])
    pixels = [
        np.asarray(Image.open(io.BytesIO(data))).transpose(2, 0, 1).tobytes() for data in table["image"].to_pylist()
    ]
    result = dict(zip(pixels, map(split.classes.index, table["label"].to_pylist()), strict=True))
    assert len(result) == ROWS
    return result


def test_batches_have_the_right_shapes_types_and_labels(uri, stored):
    batches = list(loader(uri))
    assert [len(labels) for _, labels in batches] == [5, 5, 5, 5, 3]
    for images, labels in batches:
        assert images.shape == (len(labels), 3, 12, 12)
        assert (images.dtype, labels.dtype) == (torch.uint8, torch.int64)
        assert [stored[image.numpy().tobytes()] for image in images] == labels.tolist()


@pytest.mark.parametrize("share", [{"rank": 2, "world_size": 2}, {"rank": 1}, {"rank": -1}, {"world_size": 0}])
def test_rank_must_be_below_world_size(uri, share):
    with pytest.raises(ValueError, match=rf"rank {share.get('rank', 0)}\b.*world_size {share.get('world_size', 1)}\b"):
        loader(uri, **share)


def test_batch_size_must_be_positive(uri):
    with pytest.raises(ValueError, match="batch_size 0"):
        loader(uri, batch_size=0)


def test_lengths(uri):
    assert (len(loader(uri)), loader(uri).rows) == (5, ROWS)
    assert len(loader(uri, batch_size=ROWS)) == 1


def test_without_training_the_order_is_the_stored_one(uri, stored):
    assert rows(loader(uri, training=False, seed=3)) == list(stored)


@few
@given(batch_size=st.integers(1, ROWS + 2), seed=st.integers(0, 5), epoch=st.integers(0, 4), threads=st.integers(1, 3))
def test_every_row_comes_once_per_epoch_in_an_order_of_seed_and_epoch(uri, stored, batch_size, seed, epoch, threads):
    one = loader(uri, batch_size=batch_size, seed=seed, threads=threads)
    one.set_epoch(epoch)
    found = rows(one)
    assert sorted(found) == sorted(stored)
    other = loader(uri, batch_size=7, seed=seed, threads=2)
    other.set_epoch(epoch)
    assert rows(other) == found


def test_seed_epoch_and_version_change_the_order(tmp_path, uri, train_folder):
    root = write_image_folder(tmp_path / "pets", {"train": TRAIN_COUNTS})
    copy = str(tmp_path / "copy.lance")
    ingest_split(root, "train", copy)
    assert rows(loader(copy)) == rows(loader(uri))
    ingest_split(root, "train", copy, classes=["cat", "dog", "fox", "gnu"])

    orders = [rows(loader(uri)), rows(loader(uri, seed=1)), rows(loader(copy))]
    next_epoch = loader(uri)
    next_epoch.set_epoch(1)
    orders.append(rows(next_epoch))
    assert all(sorted(order) == sorted(orders[0]) for order in orders)
    assert len({tuple(order) for order in orders}) == 4


@few
@given(world_size=st.integers(1, 6), batch_size=st.integers(6, 9), training=st.booleans())
def test_ranks_share_each_global_batch(uri, world_size, batch_size, training):
    options = {"batch_size": batch_size, "training": training, "seed": 4}
    whole = list(loader(uri, **options))
    shares = [list(loader(uri, rank=rank, world_size=world_size, **options)) for rank in range(world_size)]
    # A last batch with fewer images than ranks is dropped.
    whole = [batch for batch in whole if len(batch[1]) >= world_size]
    assert {len(share) for share in shares} == {len(whole)}
    for number, batch in enumerate(whole):
        parts = [share[number] for share in shares]
        assert sorted(rows(parts)) == sorted(rows([batch]))
        sizes = [len(labels) for _, labels in parts]
        assert max(sizes) - min(sizes) <= 1


@few
@given(taken=st.integers(0, 6), epoch=st.integers(0, 3), threads=st.integers(1, 3))
def test_loaded_state_resumes_with_the_next_batch(uri, taken, epoch, threads):
    whole = loader(uri, batch_size=4, seed=2)
    whole.set_epoch(epoch)
    expected = rows(whole)

    stopped = loader(uri, batch_size=4, seed=2, threads=threads)
    stopped.set_epoch(epoch)
    head = rows(islice(stopped, taken))
    resumed = loader(uri, batch_size=4, seed=2)
    resumed.load_state_dict(stopped.state_dict())
    tail = rows(resumed)
    if taken < len(whole):
        assert head + tail == expected
    else:
        # The epoch was over, so it begins again.
        assert head == tail == expected


@few
@given(taken=st.integers(1, 5), cached=st.booleans(), more=st.integers(0, 2))
def test_iter_begins_the_epoch(uri, tmp_path_factory, taken, cached, more):
    one = loader(uri, cache=CachePlace(str(tmp_path_factory.mktemp("cache"))) if cached else None)
    first = rows(one)
    for _ in range(more + 1):
        assert rows(islice(one, taken)) == first[: taken * 5]
    assert rows(one) == first


def test_only_the_iterator_after_load_state_dict_resumes(uri):
    one = loader(uri)
    first = rows(one)
    one.load_state_dict(loader(uri).state_dict() | {"next_batch": 2})
    assert one.state_dict()["next_batch"] == 2
    resumed = iter(one)
    # Taken by the iterator above, although it has not begun.
    assert rows(one) == first
    assert rows(resumed) == first[10:]
    one.load_state_dict(loader(uri).state_dict() | {"next_batch": 2})
    one.set_epoch(0)
    assert rows(one) == first


@pytest.mark.parametrize("cached", [False, True])
def test_iterators_are_independent_and_the_state_is_that_of_the_latest(uri, tmp_path, cached):
    one = loader(uri, cache=CachePlace(str(tmp_path)) if cached else None)
    epochs = []
    for epoch in (0, 1):
        one.set_epoch(epoch)
        epochs.append(rows(one))
    one.set_epoch(0)
    before = iter(one)
    found = rows(islice(before, 2))
    one.set_epoch(1)
    latest, places, others = iter(one), [], []
    for number in range(3):
        others += rows([next(latest)])
        assert one.state_dict() == loader(uri).state_dict() | {"epoch": 1, "next_batch": number + 1}
        found += rows([next(before)])
        places.append(one.state_dict()["next_batch"])
    assert places == [1, 2, 3]
    resumed = loader(uri)
    resumed.load_state_dict(one.state_dict())
    assert found + rows(before) == epochs[0]
    assert rows(resumed) == rows(latest) == epochs[1][15:]
    assert others == epochs[1][:15]


def test_copies_begin_the_epoch_unless_a_state_was_loaded(uri):
    one = loader(uri)
    one.set_epoch(3)
    first = rows(one)
    next(iter(one))
    assert rows(pickle.loads(pickle.dumps(one))) == first
    one.load_state_dict(loader(uri).state_dict() | {"epoch": 3, "next_batch": 2})
    copy = pickle.loads(pickle.dumps(one))
    assert rows(copy) == first[10:]
    assert rows(copy) == rows(pickle.loads(pickle.dumps(copy))) == first


class StatesOfWorkers(IterableDataset):
    def __init__(self, loader: ImageLoader) -> None:
        self._loader = loader

    def __iter__(self):
        for _ in self._loader:
            try:
                yield self._loader.state_dict()
            except RuntimeError as error:
                yield str(error)


def test_state_of_a_worker_is_refused_instead_of_wrong(uri):
    (found, *_) = DataLoader(
        StatesOfWorkers(loader(uri)), batch_size=None, num_workers=1, multiprocessing_context="spawn"
    )
    assert "num_workers=0" in found


def test_set_epoch_restarts_an_unfinished_epoch(uri):
    one = loader(uri)
    first = rows(one)
    one.set_epoch(0)
    assert rows(islice(one, 2)) == first[:10]
    one.set_epoch(0)
    assert rows(one) == first
    assert rows(one) == first


@pytest.mark.parametrize("change", [{"seed": 9}, {"version": 5}])
def test_state_with_other_batches_is_refused(uri, change):
    state = loader(uri).state_dict() | change
    with pytest.raises(ValueError, match=next(iter(change))):
        loader(uri).load_state_dict(state)


def test_deleted_rows_do_not_change_the_windows(tmp_path):
    uri = str(tmp_path / "thinned.lance")
    rng = np.random.default_rng(0)
    rows = {"image": [rng.bytes(50_000) for _ in range(400)], "label": ["cat"] * 400}
    lance.write_dataset(pa.table(rows, pa.schema({"image": pa.large_binary(), "label": pa.string()})), uri)
    before = loader(uri)._epoch_batches()._order
    lance.dataset(uri).delete("_rowid % 10 != 0")
    thinned = loader(uri)
    assert thinned.rows == 40
    after = thinned._epoch_batches()._order
    assert (after.clump, after.window) == (before.clump, before.window)


@pytest.mark.parametrize("fit", ["crop", "squash"])
def test_images_are_resized_as_configured(tmp_path, fit):
    root = write_image_folder(tmp_path / "wide", {"train": {"cat": 2, "dog": 2}}, size=(30, 10))
    uri = str(tmp_path / "wide.lance")
    ingest_split(root, "train", uri)
    images, _ = next(iter(loader(uri, batch_size=4, image_size=8, training=False, fit=fit)))
    for image, data in zip(images, LanceSplit(uri).to_table(["image"])["image"].to_pylist(), strict=True):
        expected = np.asarray(resize_rgb(Image.open(io.BytesIO(data)), 8, fit))
        assert np.array_equal(image.permute(1, 2, 0).numpy(), expected)


def test_classes_may_be_given(uri, stored):
    batches = list(loader(uri, training=False, classes=["gnu", "fox", "dog", "cat"]))
    found = torch.cat([labels for _, labels in batches]).tolist()
    assert found == [3 - index for index in stored.values()]


def test_label_that_is_not_among_the_classes(uri):
    with pytest.raises(InputError, match=r"\['fox'\]"):
        loader(uri, classes=["cat", "dog"])


def test_missing_dataset(tmp_path):
    with pytest.raises(InputError, match=r"nothing\.lance"):
        loader(str(tmp_path / "nothing.lance"))
