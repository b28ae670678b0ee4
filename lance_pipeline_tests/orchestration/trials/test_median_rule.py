"""The rule that stops trials of a search early."""

from hypothesis import given
from hypothesis import strategies as st

from lance_pipeline.orchestration.trials.median_rule import course, falls_behind

ACCURACIES = st.lists(st.floats(0, 1), min_size=1, max_size=12)
GOOD, FAIR = course([0.5, 0.7, 0.9], 3), course([0.4, 0.6, 0.8], 3)


def test_what_is_below_the_median_falls_behind():
    assert falls_behind(course([0.1], 3), [GOOD, FAIR])
    assert falls_behind(course([0.1, 0.64], 3), [GOOD, FAIR])
    assert not falls_behind(course([0.1, 0.66], 3), [GOOD, FAIR])


def test_epochs_are_compared_by_their_share():
    # 2 of 6 epochs compare with 1 of 3 of the others.
    assert not falls_behind(course([0.1, 0.46], 6), [GOOD, FAIR])
    assert falls_behind(course([0.1, 0.44], 6), [GOOD, FAIR])


@given(ACCURACIES, st.lists(ACCURACIES, max_size=1))
def test_one_other_is_too_few(own: list[float], others: list[list[float]]):
    assert not falls_behind(course(own, len(own)), [course(other, len(other)) for other in others])


@given(ACCURACIES, st.lists(ACCURACIES, max_size=5), st.integers(1, 3))
def test_the_first_third_decides_nothing(own: list[float], others: list[list[float]], more: int):
    epochs = 3 * len(own) + more
    assert not falls_behind(course(own, epochs), [course(other, len(other)) for other in others])


@given(ACCURACIES, st.lists(ACCURACIES, max_size=5))
def test_the_best_is_never_stopped(own: list[float], others: list[list[float]]):
    best = [max([*own, *(one for other in others for one in other)])] * len(own)
    assert not falls_behind(course(best, len(best)), [course(other, len(other)) for other in others])
