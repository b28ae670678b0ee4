"""Every row once, in an order that is a pure function of its seeds, shuffled well."""

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
def test_every_row_comes_once_and_windows_start_where_they_say(order):
    assert sorted(all_rows(order)) == list(range(order.rows))
    sizes = [len(order.rows_in(window)) for window in range(len(order.starts) - 1)]
    assert np.array_equal(order.starts, np.cumsum([0, *sizes]))
    for position in range(order.rows):
        window = order.window_of(position)
        assert order.starts[window] <= position < order.starts[window + 1]


def test_without_seeds_it_is_the_stored_one():
    assert np.array_equal(all_rows(Order.of(1000, 3000, None)), np.arange(1000))


def test_each_seed_gives_another_order_and_always_the_same():
    orders = [all_rows(Order.of(5000, 3000, seeds)) for seeds in ((1, 0, 0), (1, 0, 1), (1, 1, 0), (2, 0, 0))]
    assert len({tuple(order) for order in orders}) == 4
    assert np.array_equal(orders[0], all_rows(Order.of(5000, 3000, (1, 0, 0))))


def test_batches_are_as_mixed_as_of_a_full_shuffle():
    """Of rows that are shuffled at rest: the spread of a class over batches, and what two epochs have in common."""
    labels = np.random.default_rng(0).integers(0, 10, 50_000)
    epochs = [all_rows(Order.of(50_000, 2500, (1, 0, epoch))) for epoch in range(2)]
    counts = np.array([(labels[epochs[0][i : i + 64]] == 0).sum() for i in range(0, 49_984, 64)])
    # 64 draws with probability 0.1.
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
