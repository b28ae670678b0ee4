"""Finds images that look alike: perceptual hashes that differ in few bits."""

from itertools import combinations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lance_pipeline.storage.columns import positions

Hashes = NDArray[np.uint64]
Positions = NDArray[np.int64]

HASH_BITS = 64
MAX_DISTANCE = 10
"""The maximum distance in bits; beyond it, buckets become too large, and different images count as near."""
# The number of bands that two near hashes must share. With 2, half a million random hashes take 3 s at 4 bits; 1 and 3
# were slower, on structured or on random hashes.
_SHARED_BANDS = 2


def earlier_lookalikes(hashes: Hashes, distance: int) -> Positions:
    """For each hash, the position of an earlier one within ``distance`` bits, or -1 if there is none.

    The result is exact: without the hashes that have one, no two hashes are within ``distance`` bits. Time grows with
    the number of hashes and with the number of hashes in a bucket that do not look alike; memory is linear. A thousand
    equal hashes give 999 links, all to the first.

    Args:
        hashes: shape (n,).
        distance: the Hamming distance in bits, 0 to ``MAX_DISTANCE``.

    Returns:
        Shape (n,).
    """
    first = positions(pa.array(hashes), pa.array(hashes))
    distinct = np.flatnonzero(first == np.arange(len(hashes)))
    all_hashes = np.ones(len(distinct), bool)
    links = _links(hashes[distinct], distance, all_hashes, all_hashes)
    earlier = first.copy()
    earlier[distinct] = np.where(links < 0, -1, distinct[links])
    return earlier


def lookalikes_among(hashes: Hashes, others: Hashes, distance: int) -> Positions:
    """For each hash, the position in ``others`` of one within ``distance`` bits, or -1 if there is none.

    An equal hash is preferred. Exact, in linear memory; see :func:`earlier_lookalikes`.

    Args:
        hashes: shape (n,).
        others: shape (m,).
        distance: the Hamming distance in bits, 0 to ``MAX_DISTANCE``.

    Returns:
        Shape (n,).
    """
    known = len(others)
    both = np.concatenate([others, hashes])
    first = positions(pa.array(both), pa.array(both))
    distinct = np.flatnonzero(first == np.arange(len(both)))
    links = _links(both[distinct], distance, distinct < known, distinct >= known)
    partner = np.full(len(both), -1, np.int64)
    partner[distinct] = np.where(links < 0, -1, distinct[links])
    return np.where(first < known, first, partner[first])[known:]


def _links(hashes: Hashes, distance: int, offered: NDArray[np.bool_], seeking: NDArray[np.bool_]) -> Positions:
    """For each of the distinct hashes in ``seeking``, the position of an earlier near one in ``offered``, or -1.

    By the pigeonhole principle: the bits are cut into ``distance + 2`` bands, of which ``distance`` differing bits
    leave at least two untouched. So for some pair of bands, near hashes are in the same bucket of hashes that agree in
    both bands.
    (Multi-index hashing: Norouzi, Punjani and Fleet, "Fast Search in Hamming Space with Multi-Index Hashing", 2012,
    with pairs of bands in place of single ones.)
    """
    if not 0 <= distance <= MAX_DISTANCE:
        raise ValueError(f"distance is {distance} but must be from 0 to {MAX_DISTANCE} bits")
    links = np.full(len(hashes), -1, np.int64)
    for chosen in combinations(_bands(hashes, distance + _SHARED_BANDS), _SHARED_BANDS):
        bucket = hashes & np.bitwise_or.reduce(chosen)
        order = np.argsort(bucket, kind="stable")
        _link_buckets(links, order, bucket[order], hashes[order], distance, offered[order], seeking[order])
    return links


def _link_buckets(
    links: Positions,
    order: Positions,
    bucket: Hashes,
    hashes: Hashes,
    distance: int,
    offered: NDArray[np.bool_],
    seeking: NDArray[np.bool_],
) -> None:
    """Fill in the links within each bucket; all arguments but ``links`` are sorted by bucket, then by position.

    Every hash is compared with the first hash that its bucket offers, then with the second and so on, for all buckets
    at once. A linked hash drops out, so a bucket of lookalikes is finished soon, however large it is.
    """
    offers = np.flatnonzero(offered)
    start = np.searchsorted(bucket, bucket)
    offers_before = np.concatenate([[0], np.cumsum(offered)])
    first_offer, end = offers_before[start], offers_before[np.arange(len(bucket))]
    waiting = np.flatnonzero(seeking & (links[order] < 0) & (first_offer < end))
    step = 0
    while len(waiting):
        candidate = offers[first_offer[waiting] + step]
        near = np.bitwise_count(hashes[waiting] ^ hashes[candidate]) <= distance
        links[order[waiting[near]]] = order[candidate[near]]
        step += 1
        waiting = waiting[~near & (first_offer[waiting] + step < end[waiting])]


def _bands(hashes: Hashes, count: int) -> list[np.uint64]:
    """The masks of ``count`` bands that partition the 64 bits.

    Bits that are nearly always 0 or nearly always 1, such as those of an empty margin, carry little information. Each
    band gets a share of them, because a band of only such bits would put nearly all hashes into one bucket.
    """
    one = np.uint64(1)
    bits = np.arange(HASH_BITS, dtype=np.uint64)
    ones = np.array([np.count_nonzero(hashes & (one << bit)) for bit in bits])
    by_balance = bits[np.argsort(np.abs(2 * ones - len(hashes)), kind="stable")]
    return [np.bitwise_or.reduce(one << by_balance[number::count]) for number in range(count)]
