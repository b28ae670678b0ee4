"""An epoch has every row once, well shuffled, in an order that depends only on the seeds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lance_pipeline.loader.order import Order

orders = st.builds(
    Order,
    rows=st.integers(0, 300),
    clump=st.integers(1, 20),
    window=st.integers(1, 9),
    seeds=st.none() | st.tuples(st.integers(1, 3), st.integers(0, 9), st.integers(0, 9)),
)


def all_rows(order: Order) -> np.ndarray:
    parts = [order.rows_in(window) for window in range(len(order.starts) - 1)]
    return np.concatenate([np.empty(0, np.int64), *parts])


@settings(max_examples=200, deadline=None)
@given(orders)
def test_every_row_comes_once_and_starts_are_correct(order):
    assert sorted(all_rows(order)) == list(range(order.rows))
    sizes = [len(order.rows_in(window)) for window in range(len(order.starts) - 1)]
    assert np.array_equal(order.starts, np.cumsum([0, *sizes]))
    for position in range(order.rows):
        window = order.window_of(position)
        assert order.starts[window] <= position < order.starts[window + 1]


def test_without_seeds_the_order_is_the_stored_one():
    assert np.array_equal(all_rows(Order.of(1000, 3000, None)), np.arange(1000))


def test_each_seed_gives_its_own_reproducible_order():
    orders = [all_rows(Order.of(5000, 3000, seeds)) for seeds in ((1, 0, 0), (1, 0, 1), (1, 1, 0), (2, 0, 0))]
    assert len({tuple(order) for order in orders}) == 4
    assert np.array_equal(orders[0], all_rows(Order.of(5000, 3000, (1, 0, 0))))


def test_batches_are_as_mixed_as_with_a_full_shuffle():
    """For rows stored in random order: the spread of a class over batches, and the correlation of two epochs."""
    labels = np.random.default_rng(0).integers(0, 10, 50_000)
    epochs = [all_rows(Order.of(50_000, 2500, (1, 0, epoch))) for epoch in range(2)]
    counts = np.array([(labels[epochs[0][i : i + 64]] == 0).sum() for i in range(0, 49_984, 64)])
    # The standard deviation of 64 draws with probability 0.1.
    assert abs(counts.std() / np.sqrt(64 * 0.1 * 0.9) - 1) < 0.1
    assert abs(np.corrcoef(counts[1:], counts[:-1])[0, 1]) < 0.1
    places = [np.argsort(epoch) for epoch in epochs]
    assert abs(np.corrcoef(places[0], places[1])[0, 1]) < 0.1
    neighbours = [set(zip(epoch[:-1].tolist(), epoch[1:].tolist(), strict=True)) for epoch in epochs]
    assert len(neighbours[0] & neighbours[1]) < 50


def test_large_images_are_read_in_smaller_windows():
    small, large = Order.of(10**6, 2500, None), Order.of(10**6, 10**6, None)
    assert small.starts[1] == 4096
    assert large.starts[1] * 10**6 <= 64e6


def distinct_classes(labels: np.ndarray, rows: np.ndarray, batch: int) -> float:
    """The mean number of classes in a batch."""
    return float(np.mean([len(np.unique(labels[rows[i : i + batch]])) for i in range(0, len(rows) - batch + 1, batch)]))


def spread(labels: np.ndarray, rows: np.ndarray, batch: int) -> float:
    """The standard deviation of the classes' counts in a batch, relative to that of independent draws."""
    shares = np.bincount(labels) / len(labels)
    counts = [np.bincount(labels[rows[i : i + batch]], minlength=len(shares)) for i in range(0, len(rows), batch)]
    return float(np.sqrt(np.var(counts[:-1], axis=0).sum() / (batch * shares * (1 - shares)).sum()))


CLUSTERED = {
    "30 classes of 50 large images": (np.repeat(np.arange(30), 50), 100_000),
    "10 classes of many small images": (np.repeat(np.arange(10), 4000), 2500),
    "2 classes of different sizes": (np.repeat([0, 1], [9000, 1000]), 20_000),
    "parts that are each sorted": (np.tile(np.repeat(np.arange(30), 20), 6), 60_000),
    "neighbours of two classes": (np.concatenate([np.tile([n, n + 1], 500) for n in range(0, 30, 2)]), 20_000),
    "more classes than clumps": (np.repeat(np.arange(1000), 20), 110_000),
}


@pytest.mark.parametrize("name", CLUSTERED)
@pytest.mark.parametrize("batch", [32, 64, 256])
def test_rows_stored_class_by_class_are_mixed_as_by_a_full_shuffle(name, batch):
    labels, mean_bytes = CLUSTERED[name]
    order = Order.of(len(labels), mean_bytes, (1, 0, 0))
    mixing = order.mixing(labels)
    assert mixing.clump < order.clump
    # Windows do not grow, because they are in memory.
    assert mixing.clump * mixing.window <= order.clump * order.window
    found, before = all_rows(mixing), all_rows(order)
    assert np.array_equal(np.sort(found), np.arange(len(labels)))
    full = np.random.default_rng(0).permutation(len(labels))
    assert distinct_classes(labels, found, batch) >= 0.9 * distinct_classes(labels, full, batch)
    assert spread(labels, found, batch) <= 1.15 * spread(labels, full, batch)
    assert spread(labels, before, batch) > 1.15 * spread(labels, full, batch)


@settings(max_examples=200, deadline=None)
@given(
    rows=st.integers(0, 3000),
    shares=st.lists(st.floats(0.01, 1), min_size=1, max_size=40),
    mean_bytes=st.sampled_from([0, 3000, 20_000, 100_000, 400_000]),
    seed=st.integers(0, 1000),
)
def test_rows_stored_in_random_order_keep_their_clumps(rows, shares, mean_bytes, seed):
    labels = np.random.default_rng(seed).choice(len(shares), rows, p=np.array(shares) / sum(shares))
    order = Order.of(rows, mean_bytes, (1, 0, 0))
    assert order.mixing(labels) is order
