"""Digests of rows and their sums."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lance_pipeline.storage.row_digests import DESCRIBED, DigestSums, image_digests, row_digests
from lance_pipeline_tests.quality.small_splits import noise, small_split

SUMS = st.builds(
    DigestSums,
    images=st.dictionaries(st.sampled_from("abc"), st.integers(1, 2**64 - 1)),
    rows=st.integers(0, 2**64 - 1),
)
OTHER = {
    pa.int32(): 7, pa.int64(): 7, pa.uint64(): 7, pa.string(): "other", pa.binary(32): bytes(32),
    pa.binary(16): bytes(16), pa.timestamp("ns", "UTC"): 7, pa.list_(pa.int64(), 3): [7, 7, 7],
}  # fmt: skip


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> pa.RecordBatch:
    named = [("cat", f"{number}.png", noise(number)) for number in range(6)]
    return small_split(tmp_path_factory.mktemp("split"), "few", named).to_table().combine_chunks().to_batches()[0]


@pytest.mark.parametrize("name", DESCRIBED)
def test_each_column_changes_the_digest(name, rows):
    field = rows.schema.field(name)
    changed = [*rows[name].to_pylist()]
    changed[2] = OTHER[field.type]
    other = rows.set_column(rows.schema.get_field_index(name), field, pa.array(changed, field.type))
    assert np.flatnonzero(row_digests(other) != row_digests(rows)).tolist() == [2]


@given(st.integers(0, 5), st.integers(0, 6))
def test_the_digest_of_a_row_does_not_depend_on_its_position(rows, start, count):
    part = rows.slice(start, count)
    assert row_digests(part).tolist() == row_digests(rows)[start : start + count].tolist()
    taken = rows.take(pa.array(range(start, min(start + count, 6)), pa.int64()))
    assert row_digests(taken).tolist() == row_digests(part).tolist()


@given(SUMS, SUMS)
def test_sums_can_be_added_and_subtracted(one, other):
    assert one.plus(other) == other.plus(one)
    assert one.plus(other).plus(other, -1) == one
    assert one.plus(one, -1) == DigestSums()


def test_digests_are_stable_across_releases(rows):
    # With different digests, a later release would report all stored rows as damaged.
    assert image_digests([b"", b"lance"]).tolist() == [3244421341483603138, int(image_digests([b"lance"])[0])]
    assert row_digests(rows).tolist() == rows["row_digest"].to_pylist()
