import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lance_pipeline.quality.near_duplicates import MAX_DISTANCE, earlier_lookalikes, lookalikes_among

WORDS = st.integers(0, 2**64 - 1)
SEEDS = st.integers(0, 2**32 - 1)
DISTANCES = st.sampled_from([0, 1, 2, 4, 7, MAX_DISTANCE])


def distances(left, right):
    """The Hamming distances in bits, shape (left, right)."""
    return np.bitwise_count(left[:, None] ^ right[None, :])


def flip_bits(hashes, rng, bits):
    """The hashes with exactly ``bits`` bits flipped."""
    places = np.argsort(rng.random((len(hashes), 64)), axis=1)[:, :bits].astype(np.uint64)
    return hashes ^ (np.uint64(1) << places).sum(axis=1, dtype=np.uint64)


def random_hashes(kind, seed, count):
    """Random hashes of one of several kinds, with many or few lookalikes."""
    rng = np.random.default_rng(seed)
    hashes = rng.integers(0, 2**64, count, dtype=np.uint64)
    if kind == "clusters":
        centres = rng.integers(0, 2**64, 5, dtype=np.uint64)[rng.integers(0, 5, count)]
        parts = [flip_bits(centres[rest::12], rng, rest) for rest in range(12)]
        return rng.permutation(np.concatenate(parts))
    if kind == "mostly zero":
        masks = rng.integers(0, 2**64, (4, count), dtype=np.uint64)
        return hashes & np.bitwise_and.reduce(masks)
    if kind == "few bits vary":
        return hashes & np.uint64(0x0000000000FFF000)
    return hashes


KINDS = st.sampled_from(["random", "clusters", "mostly zero", "few bits vary"])


def check_earlier(hashes, distance):
    """The result equals that of comparing all pairs; equal hashes are linked to the first of them."""
    found = earlier_lookalikes(hashes, distance)
    near = np.tril(distances(hashes, hashes) <= distance, k=-1)
    assert (found >= 0).tolist() == near.any(axis=1).tolist()
    linked = np.flatnonzero(found >= 0)
    assert near[linked, found[linked]].all()
    _, first, which = np.unique(hashes, return_index=True, return_inverse=True)
    repeated = np.flatnonzero(first[which] < np.arange(len(hashes)))
    assert (found[repeated] == first[which][repeated]).all()


@settings(deadline=None)
@given(KINDS, SEEDS, st.integers(0, 150), DISTANCES)
def test_earlier_lookalikes_equal_brute_force(kind, seed, count, distance):
    check_earlier(random_hashes(kind, seed, count), distance)


@settings(deadline=None)
@given(st.lists(WORDS, max_size=20), DISTANCES)
def test_earlier_lookalikes_of_any_hashes(words, distance):
    check_earlier(np.array(words, np.uint64), distance)


@settings(deadline=None)
@given(KINDS, SEEDS, st.integers(0, 80), st.integers(0, 80), DISTANCES)
def test_lookalikes_among_others_equal_brute_force(kind, seed, count, other_count, distance):
    both = random_hashes(kind, seed, count + other_count)
    hashes, others = both[:count], both[count:]
    found = lookalikes_among(hashes, others, distance)
    near = distances(hashes, others) <= distance
    assert (found >= 0).tolist() == near.any(axis=1).tolist()
    linked = np.flatnonzero(found >= 0)
    assert near[linked, found[linked]].all()
    same = np.flatnonzero(np.isin(hashes, others))
    assert (hashes[same] == others[found[same]]).all()


@pytest.mark.parametrize("distance", [0, 1, 4, MAX_DISTANCE])
def test_distance_is_inclusive(distance):
    rng = np.random.default_rng(distance)
    hashes = rng.integers(0, 2**64, 300, dtype=np.uint64)
    at = earlier_lookalikes(np.concatenate([hashes, flip_bits(hashes, rng, distance)]), distance)
    assert at.tolist() == [-1] * 300 + list(range(300))
    beyond = earlier_lookalikes(np.concatenate([hashes, flip_bits(hashes, rng, distance + 1)]), distance)
    assert (beyond == -1).all()


@pytest.mark.parametrize("distance", [-1, MAX_DISTANCE + 1])
def test_distance_out_of_range_is_refused(distance):
    with pytest.raises(ValueError, match=rf"{distance}\b.*\b{MAX_DISTANCE}\b"):
        earlier_lookalikes(np.zeros(2, np.uint64), distance)


def test_no_lookalikes_remain_without_those_found():
    hashes = random_hashes("clusters", 1, 3000)
    left = hashes[earlier_lookalikes(hashes, 4) < 0]
    assert 1 < len(left) < 3000
    assert (np.triu(distances(left, left), k=1) + 99 * np.tri(len(left)) > 4).all()


def test_equal_hashes_are_linked_to_the_first():
    found = earlier_lookalikes(np.full(100_000, 7, np.uint64), 4)
    assert found[0] == -1
    assert (found[1:] == 0).all()


@pytest.mark.parametrize("kind", ["few bits set", "half the bits vary"])
def test_large_groups_take_few_comparisons_and_linear_memory(kind, monkeypatch):
    rng = np.random.default_rng(0)
    hashes = np.zeros(40_000, np.uint64)
    if kind == "few bits set":
        for _ in range(4):
            hashes = flip_bits(hashes, rng, 1)
    else:
        hashes = rng.integers(0, 2**32, 40_000, dtype=np.uint64)
    count_bits, compared = np.bitwise_count, []
    monkeypatch.setattr(np, "bitwise_count", lambda values: compared.append(len(values)) or count_bits(values))
    tracemalloc.start()
    earlier_lookalikes(hashes, 4)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # Comparing all pairs would take 800 million comparisons.
    assert sum(compared) < 40_000 * 250
    assert peak < 40_000 * 400
