import hashlib

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lance_pipeline.sources.split_assignment import UNKNOWN, ByFractions, FixedSplit

FRACTIONS = {"train": 0.7, "val": 0.15, "test": 0.15}
_DIGESTS = st.lists(st.binary(min_size=16, max_size=16), max_size=20)


def digests(count: int) -> pa.Array:
    return pa.array([hashlib.md5(str(number).encode()).digest() for number in range(count)], pa.binary())


def codes(assignment: ByFractions, values: pa.Array) -> list[int]:
    return assignment.codes(values).tolist()


@settings(max_examples=60, deadline=None)
@given(_DIGESTS, _DIGESTS, st.text(max_size=5))
def test_a_split_depends_only_on_salt_and_digest(before, added, salt):
    assignment = ByFractions(FRACTIONS, salt)
    alone = codes(assignment, pa.array(before, pa.binary()))
    assert codes(ByFractions(FRACTIONS, salt), pa.array([*added, *before], pa.binary()))[len(added) :] == alone
    assert [assignment.code(digest) for digest in before] == alone


@pytest.mark.parametrize("fractions", [FRACTIONS, {"train": 0.5, "val": 0.5}, {"a": 0.05, "b": 0.9, "c": 0.05}])
def test_fractions_are_respected(fractions):
    count = 20_000
    found = codes(ByFractions(fractions), digests(count))
    for code, fraction in enumerate(fractions.values()):
        # Five standard deviations of a binomial proportion.
        assert found.count(code) / count == pytest.approx(fraction, abs=5 * (fraction * (1 - fraction) / count) ** 0.5)


def test_only_the_ratio_of_the_fractions_matters():
    doubled = ByFractions({split: 2 * share for split, share in FRACTIONS.items()})
    assert codes(doubled, digests(500)) == codes(ByFractions(FRACTIONS), digests(500))


def test_a_different_salt_gives_an_independent_assignment():
    count = 20_000
    one, other = (ByFractions({"a": 0.5, "b": 0.5}, salt).codes(digests(count)) for salt in ("", "2"))
    assert (one == other).mean() == pytest.approx(0.5, abs=5 * 0.5 / count**0.5)


def test_images_with_unknown_pixels_have_no_split():
    assert codes(ByFractions(FRACTIONS), pa.array([None, b"x"], pa.binary()))[0] == UNKNOWN
    assert FixedSplit("val").codes(pa.array([None, b"x"], pa.binary())).tolist() == [0, 0]
