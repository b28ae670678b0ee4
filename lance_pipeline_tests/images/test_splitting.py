import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lance_pipeline.images.splitting import assign_splits

FRACTIONS = {"train": 0.7, "val": 0.15, "test": 0.15}
_PATHS = st.lists(st.text(st.characters(codec="utf-8"), max_size=12), max_size=20)


@settings(max_examples=60, deadline=None)
@given(_PATHS, _PATHS)
def test_added_paths_move_no_other(before, added):
    alone = dict(zip(before, assign_splits(before, FRACTIONS), strict=True))
    everything = [*added, *before]
    together = dict(zip(everything, assign_splits(everything, FRACTIONS), strict=True))
    assert {path: together[path] for path in alone} == alone


@pytest.mark.parametrize("fractions", [FRACTIONS, {"train": 0.5, "val": 0.5}, {"a": 0.05, "b": 0.9, "c": 0.05}])
def test_fractions_are_respected(fractions):
    count = 20_000
    splits = assign_splits([f"cat/{number}.png" for number in range(count)], fractions)
    for split, fraction in fractions.items():
        # Five standard deviations of a binomial share.
        assert splits.count(split) / count == pytest.approx(
            fraction, abs=5 * (fraction * (1 - fraction) / count) ** 0.5
        )


def test_only_the_ratio_of_the_fractions_matters():
    paths = [f"dog/{number}.png" for number in range(500)]
    assert assign_splits(paths, FRACTIONS) == assign_splits(paths, {k: 20 * v for k, v in FRACTIONS.items()})


def test_a_fraction_of_zero_gets_nothing():
    assert set(assign_splits(map(str, range(200)), {"train": 0.6, "val": 0.4, "test": 0.0})) == {"train", "val"}
