"""Estimates of a training's remaining time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lance_pipeline.training.pace import Pace


class Clock:
    """A clock that shows the time it is set to."""

    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@given(st.floats(0, 1000), st.floats(0.01, 10), st.integers(10, 500), st.floats(0, 0.5))
def test_no_first_line_is_far_off(warm_up: float, each: float, batches: int, before: float):
    clock = Clock()
    pace = Pace(before, clock)
    for number in range(1, batches + 1):
        clock.seconds += each + (warm_up if number == 1 else 0)
        left = pace.after_batch(before + (1 - before) * number / batches)
        assert left is None if number < 8 else left == pytest.approx((batches - number) * each, rel=0.01, abs=0.01)


def test_after_an_epoch_there_is_an_estimate_however_short_it_was():
    clock = Clock()
    pace = Pace(0.0, clock)
    clock.seconds = 3
    assert pace.after_batch(0.1) is None
    assert pace.seconds_left(0.1) == pytest.approx(27)
    assert Pace(0.5, clock).seconds_left(0.5) is None
