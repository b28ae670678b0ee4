import random
import tempfile
from collections.abc import Sequence
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lance_pipeline.errors import InputError
from lance_pipeline.storage.facts import read_facts
from lance_pipeline.storage.row_addresses import RowAddresses
from lance_pipeline.storage.table_errors import TableNotFoundError, is_damage
from lance_pipeline.storage.tables import commit_table, find_replaceable, find_table, open_table

SCHEMA = pa.schema([pa.field("number", pa.int64(), nullable=False)])


def batches(*groups):
    return [pa.record_batch([pa.array(group, pa.int64())], schema=SCHEMA) for group in groups]


def numbers(dataset) -> list[int]:
    return dataset.to_table()["number"].to_pylist()


@pytest.fixture
def uri(tmp_path):
    return str(tmp_path / "deep" / "table.lance")


def test_rows_and_facts_are_one_version(uri):
    dataset = commit_table(uri, SCHEMA, batches([1, 2], [3]), {"rows": 3, "nested": {"a": [1]}})
    assert dataset.version == 1
    assert numbers(open_table(uri)) == [1, 2, 3]
    assert read_facts(open_table(uri)) == {"rows": 3, "nested": {"a": [1]}}


def test_a_commit_replaces_and_the_old_version_stays_readable(uri):
    commit_table(uri, SCHEMA, batches([1]), {"turn": 1})
    reader = open_table(uri)
    assert commit_table(uri, SCHEMA, batches([2, 3]), {"turn": 2}).version == 2
    assert (numbers(reader), read_facts(reader)) == ([1], {"turn": 1})
    assert (numbers(open_table(uri, 1)), read_facts(open_table(uri, 1))) == ([1], {"turn": 1})
    assert (numbers(open_table(uri)), read_facts(open_table(uri))) == ([2, 3], {"turn": 2})


class Overtaken(Sequence):
    """Batches; when they are first read, another writer creates the table."""

    def __init__(self, uri: str, rows: list[pa.RecordBatch]) -> None:
        self._uri, self._rows, self.readings = uri, rows, 0

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, at):
        return self._rows[at]

    def __iter__(self):
        self.readings += 1
        if self.readings == 1:
            commit_table(self._uri, SCHEMA, batches([0]), {"turn": 0})
        return iter(self._rows)


@pytest.mark.parametrize("factory", [False, True], ids=["sequence", "factory"])
def test_after_a_lost_race_all_batches_are_committed(uri, factory):
    rows = Overtaken(uri, batches([1], [2], [3]))
    dataset = commit_table(uri, SCHEMA, (lambda: iter(rows)) if factory else rows, {"turn": 1})
    assert (dataset.version, numbers(dataset), read_facts(dataset)) == (2, [1, 2, 3], {"turn": 1})
    assert (numbers(open_table(uri, 1)), rows.readings) == ([0], 2)


def test_batches_that_can_be_read_only_once_are_refused(uri):
    with pytest.raises(TypeError, match="generator"):
        commit_table(uri, SCHEMA, (one for one in batches([1])), {})  # pyright: ignore[reportArgumentType]
    assert find_table(uri) is None


def test_unwritable(below_a_file):
    with pytest.raises(InputError, match=r"file/below.*LANCE_PIPELINE_DATA"):
        commit_table(below_a_file, SCHEMA, batches([1]), {})


def test_missing_dataset_and_missing_version(uri):
    assert find_table(uri) is None
    with pytest.raises(TableNotFoundError, match=r"table\.lance"):
        open_table(uri)
    commit_table(uri, SCHEMA, batches([1]), {})
    with pytest.raises(TableNotFoundError, match=r"\b7\b.*table\.lance"):
        open_table(uri, 7)


def test_a_dataset_of_another_tool_has_no_facts(tmp_path):
    assert read_facts(lance.write_dataset(pa.table({"number": [1]}), str(tmp_path / "x.lance"))) == {}


@settings(max_examples=25, deadline=None)
@given(
    fragments=st.lists(st.lists(st.booleans(), min_size=1, max_size=9), min_size=1, max_size=4),
    stable=st.booleans(),
    data=st.data(),
)
def test_rows_are_found_by_position_after_any_deletions(fragments, stable, data):
    """``fragments`` contains, for each row of each fragment, whether it is kept."""
    keeps = [keep for rows in fragments for keep in rows]
    with tempfile.TemporaryDirectory() as folder:
        for number, rows in enumerate(fragments):
            table = pa.table({"number": np.arange(len(rows)) + sum(map(len, fragments[:number]))}, SCHEMA)
            lance.write_dataset(table, folder, mode="append" if number else "create", enable_stable_row_ids=stable)
        dataset = lance.dataset(folder)
        if not all(keeps):
            dataset.delete(f"number in ({', '.join(str(row) for row, keep in enumerate(keeps) if not keep)})")
        left = [row for row, keep in enumerate(keeps) if keep]
        assert numbers(dataset) == left
        wanted = data.draw(st.lists(st.sampled_from(range(len(left))), max_size=12) if left else st.just([]))
        taken = RowAddresses(dataset).take(np.array(wanted, np.int64), ["number"])
        assert taken["number"].to_pylist() == [left[row] for row in wanted]


DAMAGES = {
    "cut": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "noise": lambda data: random.Random(len(data)).randbytes(len(data)),
    # A length beyond the end of the file makes Lance panic.
    "panic": lambda data: data.replace(b"\x0a", b"\xff"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_unreadable_table_is_moved_aside_and_replaced(uri, damage, caplog):
    for turn in (1, 2):
        commit_table(uri, SCHEMA, batches([turn]), {"turn": turn})
        latest = min(Path(uri, "_versions").glob("*.manifest"))
        latest.write_bytes(DAMAGES[damage](latest.read_bytes()))
        again = commit_table(uri, SCHEMA, batches([7]), {"turn": 0})
        assert (again.version, numbers(open_table(uri)), read_facts(open_table(uri))) == (1, [7], {"turn": 0})
        assert Path(f"{uri}.damaged-{turn}", "data").is_dir()
        assert f"{uri}.damaged-{turn}" in caplog.text
        assert Path(f"{uri}.damaged-{turn}", "_versions", latest.name).exists()


@pytest.mark.parametrize("damage", ["cut", "empty", "noise", "delete"])
def test_a_table_whose_rows_are_lost_is_moved_aside_and_replaced(uri, damage, caplog):
    commit_table(uri, SCHEMA, batches([1]), {"turn": 1})
    (rows,) = Path(uri, "data").iterdir()
    if damage == "delete":
        rows.unlink()
    else:
        rows.write_bytes(DAMAGES[damage](rows.read_bytes()))
    assert numbers(commit_table(uri, SCHEMA, batches([7]), {})) == [7]
    assert f"{uri}.damaged-1" in caplog.text


def test_a_table_whose_manifests_are_lost_is_moved_aside_and_replaced(uri, caplog):
    commit_table(uri, SCHEMA, batches([1]), {"turn": 1})
    for path in Path(uri, "_versions").iterdir():
        path.unlink()
    assert commit_table(uri, SCHEMA, batches([7]), {}).version == 1
    assert f"{uri}.damaged-1" in caplog.text


def test_an_inaccessible_table_is_not_moved_aside(uri, tmp_path):
    commit_table(uri, SCHEMA, batches([1]), {})
    assert not is_damage(InputError("the store is unreachable"))
    assert not is_damage(PermissionError("not yours"))
    assert find_replaceable(uri) is not None
    assert not list(tmp_path.rglob("*.damaged-*"))


def test_a_table_without_rows_is_intact(uri, caplog):
    assert commit_table(uri, SCHEMA, batches(), {"turn": 1}).version == 1
    assert find_replaceable(uri) is not None
    assert commit_table(uri, SCHEMA, batches(), {"turn": 2}).version == 2
    assert caplog.text == ""
