"""Batches are the same whether cached or streamed, with any number of threads, ranks and processes."""

import io
import multiprocessing
import subprocess
import sys
import time
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from lance_pipeline.errors import InputError
from lance_pipeline.images import Augment, CachePlace, ImageDataset, LanceSplit
from lance_pipeline.loader.epoch import Share
from lance_pipeline_tests.image_folders import class_image
from lance_pipeline_tests.loader.loaders import NORMALIZE, ROWS, assert_same, batches, make
from lance_pipeline_tests.quality.small_splits import small_split

few = settings(max_examples=15, deadline=None)
AUGMENTS = {
    "none": (Augment(flip=False), None),
    "flip and shift": (Augment(padding=3), None),
    "resized crop": (Augment(resized_crop=(0.1, 1.0)), None),
    "resized crop of smaller images": (Augment(resized_crop=(0.1, 1.0)), 20),
}


@pytest.mark.parametrize("name", AUGMENTS)
def test_cached_and_streamed_epochs_are_the_same(uri, tmp_path, name):
    augment, cache_size = AUGMENTS[name]
    options = {"augment": augment, "cache_size": cache_size}
    place = CachePlace(str(tmp_path))
    for epoch in (0, 1):
        streamed, cached = make(uri, **options), make(uri, **options, cache=place)
        for loader in (streamed, cached):
            loader.set_epoch(epoch)
        expected = batches(streamed)
        assert_same(batches(cached), expected)
        cached.take_stats()
        # A second epoch of the same loader and a loader of a later run use the cache, if there can be one.
        for loader in (cached, make(uri, **options, cache=place)):
            loader.set_epoch(epoch)
            cacheable = augment.resized_crop is None or cache_size is not None
            assert loader.mode.startswith("cached" if cacheable else "streamed")
            assert_same(batches(loader), expected)
            assert (loader.take_stats().decoding == 0) == (cacheable and cache_size is None)


@pytest.mark.parametrize(
    ("image_size", "batch_size", "name"),
    [
        (16, 3, "flip and shift"),
        (16, 8, "resized crop of smaller images"),
        (160, 8, "none"),
        (300, 40, "none"),
    ],
)
def test_batches_assembled_on_demand_and_ahead_are_the_same(uri, tmp_path, image_size, batch_size, name):
    augment, cache_size = AUGMENTS[name]
    options = {"image_size": image_size, "batch_size": batch_size, "augment": augment, "cache_size": cache_size}
    for rank in (0, 1):
        list(make(uri, **options, rank=rank, world_size=2, cache=CachePlace(str(tmp_path), 1 << 30)))
    for rank in (0, 1):
        share = options | {"rank": rank, "world_size": 2}
        whole = make(uri, **share, cache=CachePlace(str(tmp_path), 1 << 30))
        assert whole.mode.startswith("cached")
        assert_same(batches(whole), batches(make(uri, **share)))


@pytest.mark.parametrize(
    ("size", "batch_size", "group_size"),
    [(32, 64, 8), (32, 512, 1), (32, 1000, 1), (224, 2, 13), (224, 16, 1), (224, 64, 1)],
)
def test_group_size(size, batch_size, group_size, monkeypatch):
    monkeypatch.setattr("lance_pipeline.loader.epoch._GROUP_ROWS", 512)
    share = Share(batch_size, 0, 1)
    assert share.group_size(size) == group_size
    assert group_size == 1 or group_size * share.nbytes(size) <= 4 << 20


def test_row_that_was_not_read_is_an_error(uri, tmp_path):
    loader = make(uri, cache=CachePlace(str(tmp_path)))
    epoch = loader._epoch_batches()
    work = epoch.assembler.begin(np.arange(4))
    with pytest.raises(LookupError, match="row 0 "):
        epoch.assembler.fill(work, slice(None), lambda places: iter([None] * len(places)))


@few
@given(
    batch_size=st.integers(5, 40),
    world=st.integers(1, 5),
    threads=st.integers(1, 3),
    epoch=st.integers(0, 3),
    cached=st.booleans(),
)
def test_global_batches_are_the_same_for_every_world_size(uri, batch_size, world, threads, epoch, cached):
    options = {"batch_size": batch_size, "augment": Augment(padding=2), "seed": 5}
    cache = CachePlace() if cached else None
    whole = make(uri, **options)
    whole.set_epoch(epoch)
    shares = []
    for rank in range(world):
        share = make(uri, **options, rank=rank, world_size=world, threads=threads, cache=cache)
        share.set_epoch(epoch)
        shares.append(batches(share))
    # A last batch with fewer images than ranks is dropped.
    expected = [batch for batch in batches(whole) if len(batch[1]) >= world]
    assert [len(share) for share in shares] == [len(expected)] * world
    for number, (images, labels) in enumerate(expected):
        for rank in range(world):
            assert torch.equal(shares[rank][number][0], images[rank::world])
            assert torch.equal(shares[rank][number][1], labels[rank::world])


@few
@given(
    taken=st.integers(1, 9),
    before=st.integers(1, 4),
    world=st.integers(1, 4),
    cached=st.booleans(),
    batch_size=st.integers(4, 11),
)
def test_state_resumes_under_another_world_size(uri, taken, before, world, cached, batch_size):
    options = {"batch_size": batch_size, "augment": Augment(padding=2), "cache": CachePlace() if cached else None}
    whole = make(uri, **options)
    whole.set_epoch(2)
    expected = batches(whole)
    taken = min(taken, len(expected) - 1)
    states = []
    for rank in range(before):
        stopped = make(uri, **options, rank=rank, world_size=before)
        stopped.set_epoch(2)
        list(islice(stopped, taken))
        states.append(stopped.state_dict())
    assert states == states[:1] * before
    for rank in range(world):
        resumed = make(uri, **options, rank=rank, world_size=world)
        resumed.load_state_dict(states[0])
        left = [(x[rank::world], y[rank::world]) for x, y in expected[taken:] if len(y) >= world]
        # With nothing left for this world size, the epoch begins again.
        assert_same(batches(resumed)[: len(left)], left)
        assert left or resumed.state_dict()["next_batch"] == len(resumed)


def test_state_of_another_batch_size_is_refused(uri):
    with pytest.raises(ValueError, match="batch_size"):
        make(uri).load_state_dict(make(uri, batch_size=9).state_dict())


def test_types_and_shapes_of_the_readme(uri):
    images, labels = next(iter(make(uri)))
    assert (images.shape, images.dtype) == ((8, 3, 16, 16), torch.float32)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert (labels.shape, labels.dtype) == ((8,), torch.int64)
    raw, _ = next(iter(make(uri, normalize=None)))
    mean, std = (torch.tensor(values)[:, None, None] for values in NORMALIZE)
    torch.testing.assert_close(images, (raw / 255 - mean) / std, atol=1e-5, rtol=0)


def test_retained_batches_do_not_change(uri, tmp_path):
    loader = make(uri, cache=CachePlace(str(tmp_path)))
    for _ in range(3):
        loader.set_epoch(0)
        kept = list(loader)
        copies = [images.clone() for images, _ in kept]
        list(loader)
        assert all(torch.equal(images, copy) for (images, _), copy in zip(kept, copies, strict=True))


def test_bad_image_is_named_or_skipped_and_counted(tmp_path):
    images = [("cat", f"cat/{n}.png", class_image(0, np.random.default_rng(n))) for n in range(6)]
    split = small_split(tmp_path, "whole", images)
    table = split.to_table()
    data = table["image"].to_pylist()
    data[2], data[4] = b"no image", data[4][:40]
    import lance

    broken = str(tmp_path / "broken.lance")
    # Like a dataset of another tool: with digests, the loader would report damage.
    table = table.set_column(0, table.schema.field("image"), [data]).drop(["image_digest", "row_digest"])
    lance.write_dataset(table, broken)
    for cache in (None, CachePlace(str(tmp_path / "cache"))):
        with pytest.raises(InputError, match=r"'cat/2\.png' of .*broken\.lance"):
            list(make(broken, batch_size=6, training=False, cache=cache))
        loader = make(broken, batch_size=3, training=False, cache=cache, on_bad_image="skip")
        for _ in range(2):
            sizes = [len(labels) for _, labels in loader]
            assert sizes == [2, 2]
            stats = loader.take_stats()
            assert (stats.images, stats.skipped) == (4, 2)


def test_statistics_are_plausible(uri):
    loader = make(uri)
    list(loader)
    stats = loader.take_stats()
    assert stats.images == ROWS
    assert 0 < stats.waiting <= stats.elapsed
    assert stats.reading > 0
    assert stats.decoding > 0
    assert stats.images_per_second == pytest.approx(ROWS / stats.elapsed)
    assert loader.take_stats().images == 0


def test_time_of_the_consumer_is_not_counted_as_waiting(uri, tmp_path):
    place, pause = CachePlace(str(tmp_path)), 0.05
    list(make(uri, cache=place))
    # With a complete cache, several batches are assembled as a group.
    for cache in (place, None):
        loader = make(uri, cache=cache)
        for _ in loader:
            time.sleep(pause)
        stats = loader.take_stats()
        assert stats.elapsed - stats.waiting >= len(loader) * pause


def test_evaluation_pixels_equal_torchvision(uri):
    """To within one level of 255, the difference between torchvision's own two implementations."""
    from torchvision.transforms import v2

    reference = v2.Compose([v2.Resize(16), v2.CenterCrop(16), v2.PILToTensor()])
    of_tensors = v2.Compose([v2.PILToTensor(), v2.Resize(16, antialias=True), v2.CenterCrop(16)])
    data = LanceSplit(uri).to_table(["image"])["image"].to_pylist()
    images = torch.cat([images for images, _ in make(uri, training=False, normalize=None)])
    for image, encoded_image in zip(images, data, strict=True):
        photo = Image.open(io.BytesIO(encoded_image)).convert("RGB")
        for expected in (reference(photo), of_tensors(photo)):
            assert (image.int() - expected.int()).abs().max() <= 1


def test_dataloader_with_spawned_workers_gives_the_same_batches(uri, tmp_path):
    options = {"batch_size": 10, "augment": Augment(padding=2)}
    expected = batches(make(uri, **options))
    for workers in (0, 2):
        context = "spawn" if workers else None
        wrapped = DataLoader(
            make(uri, **options), batch_size=None, num_workers=workers, multiprocessing_context=context
        )
        assert_same(batches(wrapped), expected)
    dataset = ImageDataset(uri, image_size=16)
    spawned = DataLoader(dataset, batch_size=10, num_workers=2, multiprocessing_context="spawn")
    assert_same(batches(spawned), batches(make(uri, batch_size=10, training=False, normalize=None)))


def test_persistent_workers_refuse_a_second_epoch_of_training(uri):
    more = {"batch_size": None, "num_workers": 1, "multiprocessing_context": "spawn", "persistent_workers": True}
    evaluation = DataLoader(make(uri, training=False), **more)
    assert_same(batches(evaluation), batches(evaluation))
    training = DataLoader(make(uri), **more)
    assert_same(batches(training), batches(make(uri)))
    with pytest.raises(RuntimeError, match="persistent_workers=True"):
        batches(training)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="the platform has no fork")
@pytest.mark.parametrize("kind", ["loader", "dataset"])
def test_forked_dataloader_is_an_error_instead_of_a_hang(uri, kind):
    script = f"""
from torch.utils.data import DataLoader
from lance_pipeline.images import ImageDataset, ImageLoader
if {kind == "loader"}:
    data = ImageLoader({uri!r}, batch_size=4, image_size=16, training=True, cache=None)
    next(iter(data))
    loader = DataLoader(data, batch_size=None, num_workers=1, multiprocessing_context="fork")
else:
    data = ImageDataset({uri!r}, image_size=16)
    data[0]
    loader = DataLoader(data, batch_size=4, num_workers=1, multiprocessing_context="fork")
list(loader)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "multiprocessing_context='spawn'" in done.stderr


def test_map_style_dataset(uri):
    dataset = ImageDataset(uri, image_size=16, transform=lambda image: image.float())
    assert len(dataset) == ROWS
    image, label = dataset[-1]
    assert (image.shape, image.dtype, label) == ((3, 16, 16), torch.float32, dataset[ROWS - 1][1])
    fetched = dataset.__getitems__([5, 3, 5])
    assert [label for _, label in fetched] == [dataset[row][1] for row in (5, 3, 5)]
    assert torch.equal(fetched[0][0], dataset[5][0])
    with pytest.raises(IndexError):
        dataset[ROWS]
