"""The image cache: sharing, budget, eviction, deletion and damage."""

import gc
import multiprocessing
import os
import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from lance_pipeline.images import Augment, ImageLoader
from lance_pipeline.loader.cache import PixelCache
from lance_pipeline.loader.cache_place import CachePlace
from lance_pipeline.loader.views import Square
from lance_pipeline.storage.lance_split import LanceSplit
from lance_pipeline_tests.loader.loaders import ROWS, assert_same, batches, make
from lance_pipeline_tests.quality.small_splits import noise, small_split
from lance_pipeline_tests.storage.damages import DAMAGES, flip

FEW, SIZES, ROUNDS = 8, (26, 28, 30, 32), 1000
# Room for two of the largest caches, including their other files, but not for three.
BUDGET = 2 * FEW * 32**2 * 3 + (16 << 10)


def cached(uri: str, folder: Path, budget: int | None = None, size: int = 16) -> ImageLoader:
    return make(uri, image_size=size, cache=CachePlace(str(folder), budget))


def open_in_turn(uri: str, folder: str, seed: int) -> int:
    """Open caches one after the other; returns how many existed while they were in use."""
    dataset, there = LanceSplit(uri).dataset, 0
    gc.freeze()  # the modules need not be searched each time
    for size in np.random.default_rng(seed).choice(SIZES, ROUNDS).tolist():
        cache = PixelCache(CachePlace(folder, BUDGET), dataset, Square(size, "crop"))
        there += os.path.exists(os.path.join(cache.path, "pixels.u8"))
        del cache
        gc.collect()
    return there


def test_two_processes_open_and_evict_concurrently(tmp_path):
    uri = small_split(tmp_path, "few", [("cat", f"{number}.png", noise(number)) for number in range(FEW)]).uri
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        folder = str(tmp_path / "cache")
        results = [pool.submit(open_in_turn, uri, folder, seed) for seed in (0, 1)]
        assert [result.result() for result in results] == [ROUNDS, ROUNDS]
    assert len(list((tmp_path / "cache").glob("square-*"))) < len(SIZES)


def test_several_ranks_fill_one_cache(uri, tmp_path):
    ranks = [make(uri, rank=rank, world_size=2, cache=CachePlace(str(tmp_path))) for rank in (0, 1)]
    batches(ranks[0])
    assert not cached(uri, tmp_path).mode.startswith("cached")
    batches(ranks[1])
    assert cached(uri, tmp_path).mode.startswith("cached")


def test_rows_cached_before_a_kill_are_used(uri, tmp_path):
    script = f"""
import os, signal
from lance_pipeline.images import CachePlace, ImageLoader
from lance_pipeline.loader import epoch
epoch._GROUP_ROWS = 8
loader = ImageLoader({uri!r}, batch_size=8, image_size=16, training=True, cache=CachePlace({str(tmp_path)!r}))
for number, batch in enumerate(loader):
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    loader = cached(uri, tmp_path)
    assert loader._cache is not None
    assert 24 <= loader._cache.has(np.arange(ROWS)).sum() < ROWS
    assert_same(batches(loader), batches(make(uri)))


def test_deleting_a_complete_cache_is_safe(uri, tmp_path):
    loader = cached(uri, tmp_path)
    expected = batches(loader)
    loader.set_epoch(0)
    shutil.rmtree(tmp_path)
    assert_same(batches(loader), expected)
    again = cached(uri, tmp_path)
    assert_same(batches(again), expected)


def test_deleting_a_cache_while_it_is_filled_is_safe(uri, tmp_path, caplog):
    loader = cached(uri, tmp_path)
    iterator = iter(loader)
    first = tuple(part.clone() for part in next(iterator))
    assert loader._cache is not None
    shutil.rmtree(tmp_path)
    rest = batches(iterator)
    assert_same([first, *rest], batches(make(uri)))
    assert loader._cache.path in caplog.text
    loader.set_epoch(0)
    assert_same(batches(loader), batches(make(uri)))


def test_missing_pixels_are_decoded_again(uri, tmp_path):
    for complete in (False, True):
        loader = cached(uri, tmp_path)
        assert loader._cache is not None
        _ = batches(loader) if complete else next(iter(loader))
        Path(loader._cache.path, "pixels.u8").unlink()
        again = cached(uri, tmp_path)
        assert "being cached" in again.mode
        assert_same(batches(again), batches(make(uri)))
        shutil.rmtree(loader._cache.path)


def test_replacement_of_a_deleted_cache_is_not_marked_complete(uri, tmp_path):
    first = cached(uri, tmp_path)
    next(iter(first))
    shutil.rmtree(tmp_path)
    second = cached(uri, tmp_path)
    batches(first)
    assert "being cached" in cached(uri, tmp_path).mode
    assert_same(batches(second), batches(make(uri)))


def test_other_files_in_the_folder_are_never_deleted(uri, tmp_path):
    photos = tmp_path / "photos-of-2024"
    photos.mkdir()
    (photos / "photo.jpg").write_bytes(bytes(1 << 20))
    loader = cached(uri, tmp_path, budget=ROWS * 16 * 16 * 3)
    assert "being cached" in loader.mode
    assert [path.name for path in photos.iterdir()] == ["photo.jpg"]


def test_cache_that_does_not_fit_on_the_disk_takes_no_space(uri, small_disk):
    disk = small_disk("64k")
    loader = cached(uri, disk, budget=1 << 30, size=64)
    assert "No space left" in loader.mode
    assert sum(file.stat().st_blocks for file in disk.rglob("*")) == 0


def test_complete_cache_is_used_on_a_full_disk(uri, small_disk):
    disk = small_disk("400k")
    wanted = batches(cached(uri, disk))
    with suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
        filler.write(bytes(1 << 20))
        filler.write(b"1")
    loader = cached(uri, disk)
    assert loader.mode.startswith("cached in")
    assert_same(batches(loader), wanted)


def test_too_small_budget_streams(uri, tmp_path):
    loader = cached(uri, tmp_path, budget=1000)
    assert "exceed" in loader.mode
    assert_same(batches(loader), batches(make(uri)))
    assert not list(tmp_path.rglob("pixels.u8"))


@pytest.mark.parametrize("budget", [0, ROWS * 16 * 16 * 3 - 1])
def test_complete_cache_that_exceeds_the_budget_is_not_used(uri, tmp_path, budget):
    batches(cached(uri, tmp_path))
    assert cached(uri, tmp_path).mode.startswith("cached")
    loader = cached(uri, tmp_path, budget)
    assert "exceed" in loader.mode
    assert loader._cache is None
    assert_same(batches(loader), batches(make(uri)))


def test_budget_of_zero_creates_nothing(uri, tmp_path):
    assert cached(uri, tmp_path / "cache", 0).mode.startswith("streamed")
    assert not list(tmp_path.rglob("square-*"))


def test_least_recently_used_cache_is_deleted_unless_in_use(uri, tmp_path):
    room = 2 * ROWS * 16 * 16 * 3
    first = cached(uri, tmp_path, room)
    assert first._cache is not None
    os.utime(first._cache.path, (1, 1))
    blocked = cached(uri, tmp_path, room, size=20)
    assert "leave no room" in blocked.mode
    path = first._cache.path
    del first
    gc.collect()
    assert "being cached" in cached(uri, tmp_path, room, size=20).mode
    assert not Path(path).exists()


def test_unwritable_folder_streams(uri, tmp_path):
    (tmp_path / "file").write_text("")
    loader = cached(uri, tmp_path / "file" / "below", budget=10**9)
    assert "cannot be used" in loader.mode
    assert len(batches(loader)) == 10


class TestDamage:
    """Damaged files of a cache: the batches stay the same, and damaged rows are decoded again."""

    @pytest.mark.parametrize("damage", DAMAGES)
    @pytest.mark.parametrize("name", ["pixels.u8", "blocks.u64"])
    @pytest.mark.parametrize("augment", [None, Augment(resized_crop=(0.3, 1.0))])
    def test_complete_cache(self, name, damage, augment, uri, tmp_path, caplog):
        def loader() -> ImageLoader:
            return make(uri, augment=augment, cache=CachePlace(str(tmp_path)), cache_size=24)

        expected = batches(loader())
        cache = loader()._cache
        assert cache is not None
        assert cache.complete
        path = Path(cache.path)
        del cache
        DAMAGES[damage](path / name)
        for _ in range(2):
            again = loader()
            assert_same(batches(again), expected)
        assert caplog.records or (damage, name) == ("delete", "blocks.u64")
        caplog.clear()
        assert_same(batches(loader()), expected)
        assert not caplog.records

    def test_no_flipped_bit_reaches_a_batch(self, uri, tmp_path, caplog):
        expected = batches(cached(uri, tmp_path))
        pixels = next(tmp_path.glob("square-*/pixels.u8"))
        whole = pixels.read_bytes()
        for seed in range(20):
            flip(pixels, seed)
            assert_same(batches(cached(uri, tmp_path)), expected)
            # The cache is repaired too.
            assert pixels.read_bytes() == whole
        assert len(caplog.records) >= 20

    def test_incomplete_cache(self, uri, tmp_path):
        expected = batches(make(uri))
        next(iter(cached(uri, tmp_path)))
        pixels = next(tmp_path.glob("square-*/pixels.u8"))
        pixels.write_bytes(bytes(pixels.stat().st_size))
        again = cached(uri, tmp_path)
        assert "being cached" in again.mode
        assert_same(batches(again), expected)
