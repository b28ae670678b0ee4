"""An epoch has every row once, well shuffled, in an order that depends only on the seeds."""

import numpy as np
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
