"""Processing columns slice by slice."""

import numpy as np
import pyarrow as pa
import pytest

from lance_pipeline.storage import columns
from lance_pipeline.storage.columns import order_of_path_hash, slices_of

PATHS = [f"class/{number}.png" for number in range(20)]


@pytest.mark.parametrize("column", [pa.array(PATHS), pa.chunked_array([PATHS[:7], [], PATHS[7:]]), pa.array([], "str")])
def test_slices_hold_each_value_once(column, monkeypatch):
    monkeypatch.setattr(columns, "_SLICE", 3)
    assert [value for values in slices_of(column) for value in values] == column.to_pylist()
    assert all(len(values) <= 3 for values in slices_of(column))


def test_order_does_not_depend_on_the_slices(monkeypatch):
    paths = pa.chunked_array([PATHS[:7], PATHS[7:]])
    whole = order_of_path_hash(paths)
    monkeypatch.setattr(columns, "_SLICE", 3)
    assert np.array_equal(order_of_path_hash(paths), whole)
    assert sorted(whole.tolist()) == list(range(20))
    assert not np.array_equal(whole, np.arange(20))
