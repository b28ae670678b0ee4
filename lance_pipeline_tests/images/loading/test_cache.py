"""Caches of a folder that several processes open and delete at the same time."""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor

import numpy as np

from lance_pipeline.images.loading.cache import PixelCache
from lance_pipeline.images.loading.cache_place import CachePlace
from lance_pipeline.images.loading.views import Square
from lance_pipeline.images.split import LanceSplit
from lance_pipeline_tests.images.small_splits import noise, small_split

ROWS, SIZES, ROUNDS = 8, (26, 28, 30, 32), 1000
# For two of the largest, with what each takes on the disk besides its pixels, and not for three.
BUDGET = 2 * ROWS * 32**2 * 3 + (16 << 10)


def opened_one_after_the_other(uri: str, folder: str, seed: int) -> int:
    """How many caches were opened, and were there as long as they were in use."""
    dataset, there = LanceSplit(uri).dataset, 0
    for size in np.random.default_rng(seed).choice(SIZES, ROUNDS).tolist():
        cache = PixelCache(CachePlace(folder, BUDGET), dataset, Square(size, "crop"))
        there += os.path.exists(os.path.join(cache.path, "pixels.u8"))
        cache.close()
    return there


def test_two_processes_open_and_evict_at_once(tmp_path):
    uri = small_split(tmp_path, "few", [("cat", f"{number}.png", noise(number)) for number in range(ROWS)]).uri
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        folder = str(tmp_path / "cache")
        results = [pool.submit(opened_one_after_the_other, uri, folder, seed) for seed in (0, 1)]
        assert [result.result() for result in results] == [ROUNDS, ROUNDS]
    assert len(list((tmp_path / "cache").glob("square-*"))) < len(SIZES)
