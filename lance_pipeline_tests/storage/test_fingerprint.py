from hypothesis import given, settings
from hypothesis import strategies as st

from lance_pipeline.storage.fingerprint import Fingerprint

_ROWS = st.tuples(st.text(st.characters(codec="utf-8"), max_size=8), st.binary(max_size=8), st.integers())


def fingerprint(rows) -> str:
    result = Fingerprint()
    for row in rows:
        result.add(*row)
    return result.hexdigest()


@settings(max_examples=60, deadline=None)
@given(st.lists(_ROWS, max_size=8).flatmap(lambda rows: st.tuples(st.just(rows), st.permutations(rows))))
def test_order_does_not_matter(pair):
    rows, shuffled = pair
    assert fingerprint(rows) == fingerprint(shuffled)


@settings(max_examples=60, deadline=None)
@given(st.lists(_ROWS, max_size=5), _ROWS, _ROWS)
def test_every_field_matters(rows, one, other):
    for position in range(3):
        changed = (*one[:position], other[position], *one[position + 1 :])
        assert (fingerprint([*rows, one]) == fingerprint([*rows, changed])) == (one == changed)


@settings(max_examples=30, deadline=None)
@given(st.lists(_ROWS, max_size=5), _ROWS)
def test_duplicate_rows_count(rows, row):
    assert len({fingerprint(rows), fingerprint([*rows, row]), fingerprint([*rows, row, row])}) == 3


def test_adjacent_fields_are_not_confused():
    assert fingerprint([("ab", "c")]) != fingerprint([("a", "bc")])
    assert fingerprint([("a", "")]) != fingerprint([("a",)])


def test_hexdigest_has_64_digits():
    assert fingerprint([]) == "0" * 64
    assert len(fingerprint([("a",)])) == 64
