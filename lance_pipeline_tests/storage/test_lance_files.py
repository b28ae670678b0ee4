"""What rests on Lance's files instead of its API.

If a test here fails, Lance has changed: the page that it names says what the part is for, and what to use instead
where Lance's public way holds now.
"""

import dataclasses
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest
from lance.commit import CommitConflictError
from lance.fragment import write_fragments

from lance_pipeline.errors import InputError
from lance_pipeline.storage.lance_files import fragment_with_rows, manifests, remove_orphan_files, with_metadata
from lance_pipeline.storage.table_errors import ConflictError, TableNotFoundError, write_error
from lance_pipeline.storage.tables import open_table
from lance_pipeline_tests.conftest import PROJECT

READ = "Lance has changed: read docs/decisions/{}.md"


@pytest.fixture
def uri(tmp_path: Path) -> str:
    uri = str(tmp_path / "x.lance")
    lance.write_dataset(pa.table({"a": np.arange(100), "b": np.arange(100)}), uri)
    return uri


def added(uri: str, value: int) -> list[lance.FragmentMetadata]:
    return write_fragments(pa.table({"a": [value], "b": [value]}), uri, mode="append")


def test_lances_own_deletion_files_are_still_cut_off_on_a_full_disk(small_disk: Callable[[str], Path]):
    folder = small_disk("8m")
    dataset = lance.write_dataset(pa.table({"a": np.arange(200_000)}), str(folder / "x.lance"))
    there = os.statvfs(folder)
    (folder / "rest").write_bytes(bytes(there.f_bavail * there.f_frsize - 8192))
    rows = np.random.default_rng(0).choice(200_000, 60_000, replace=False)
    (fragment,) = dataset.get_fragments()
    try:
        metadata = fragment.delete_rows(rows.tolist())
    except OSError:
        pytest.fail(READ.format("deletion-files"))
    assert metadata is not None
    assert metadata.deletion_file is not None
    assert metadata.deletion_file.num_deleted_rows == 60_000
    # Ours says so, and leaves nothing behind.
    with pytest.raises(OSError, match="No space"):
        fragment_with_rows(fragment, np.setdiff1d(np.arange(200_000), rows).astype(np.uint32), dataset)


def test_lance_reads_our_deletion_files(uri: str):
    dataset = lance.dataset(uri)
    (fragment,) = dataset.get_fragments()
    kept = np.array([0, 7, 99], np.uint32)
    metadata = fragment_with_rows(fragment, kept, dataset)
    assert metadata.deletion_file is not None
    operation = lance.LanceOperation.Merge([metadata], dataset.lance_schema)
    after = lance.LanceDataset.commit(dataset, lance.Transaction(dataset.version, operation))
    assert after.to_table()["a"].to_pylist() == [0, 7, 99], READ.format("deletion-files")
    after.validate()
    assert after.delete("a = 7")["num_deleted_rows"] == 1
    assert lance.dataset(uri).to_table()["a"].to_pylist() == [0, 99]


def test_an_update_still_cannot_change_the_facts_with_the_rows():
    fields = {field.name for field in dataclasses.fields(lance.LanceOperation.Update)}
    known = {
        "removed_fragment_ids",
        "updated_fragments",
        "new_fragments",
        "fields_modified",
        "fields_for_preserving_frag_bitmap",
        "update_mode",
        "updated_fragment_offsets",
    }
    assert fields == known, READ.format("one-commit")


def test_two_updates_that_add_rows_still_both_succeed(uri: str):
    dataset = lance.dataset(uri)
    for value in (1000, 1000):
        update = lance.LanceOperation.Update(new_fragments=added(uri, value))
        try:
            lance.LanceDataset.commit(dataset, lance.Transaction(dataset.version, update), max_retries=0)
        except OSError:
            pytest.fail(READ.format("one-commit"))
    assert lance.dataset(uri).count_rows("a = 1000") == 2


def test_two_merges_conflict(uri: str):
    dataset = lance.dataset(uri)
    fragments = [fragment.metadata for fragment in dataset.get_fragments()]

    def merge() -> None:
        new = added(uri, 1000)
        new[0].id = 7
        operation = lance.LanceOperation.Merge(fragments + new, dataset.lance_schema)
        lance.LanceDataset.commit(dataset, lance.Transaction(dataset.version, operation), max_retries=0)

    merge()
    with pytest.raises(CommitConflictError):
        merge()
    assert lance.dataset(uri).count_rows("a = 1000") == 1


def test_a_schema_keeps_its_ids_with_other_metadata(uri: str):
    dataset = lance.dataset(uri)
    dataset.add_columns({"c": "a"})
    dataset.drop_columns(["b"])
    schema = with_metadata(lance.dataset(uri).lance_schema, {b"key": "wört".encode()})
    assert [(field.name(), field.id()) for field in schema.fields()] == [("a", 0), ("c", 2)], READ.format("one-commit")
    assert schema.to_pyarrow().metadata == {b"key": "wört".encode()}


def test_lance_still_leaves_orphaned_deletion_files_unless_they_are_old(uri: str):
    dataset = lance.dataset(uri)
    dataset.get_fragments()[0].delete_rows([1, 2])
    (orphan,) = Path(uri, "_deletions").iterdir()
    dataset.cleanup_old_versions(timedelta(days=36500), delete_unverified=True)
    assert orphan.exists(), READ.format("orphaned-files")
    remove_orphan_files(dataset)
    assert not orphan.exists()
    dataset.delete("a = 1")
    remove_orphan_files(lance.dataset(uri))
    assert lance.dataset(uri).count_rows() == 99


def test_manifests_are_numbered_as_versions(uri: str):
    lance.dataset(uri).delete("a = 1")
    assert sorted(number for number, _ in manifests(uri)) == [1, 2], READ.format("lance-errors")


def test_what_is_missing_is_told_by_the_manifests(uri: str, tmp_path: Path):
    for place, version in ((uri, 9), (str(tmp_path / "none.lance"), None), (str(tmp_path), None)):
        with pytest.raises(TableNotFoundError):
            open_table(place, version)
    Path(uri, "_versions", manifests(uri)[0][1]).write_bytes(b"")
    with pytest.raises(InputError) as caught:
        open_table(uri)
    assert not isinstance(caught.value, TableNotFoundError)


@pytest.mark.parametrize("text", ["conflict", "already exists", "any other words"])
def test_a_conflict_is_told_by_the_versions_and_not_by_words(uri: str, text: str):
    assert isinstance(write_error(uri, OSError(text), 0), ConflictError)
    assert isinstance(write_error(uri, OSError(text), 1), InputError)
    assert isinstance(write_error(uri, CommitConflictError(text), 1), ConflictError)


def test_words_of_denied_access(uri: str):
    """No number of the system comes with Lance's errors, so two of them are recognised by their words."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        # Files that are open stay open.
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
        with pytest.raises((OSError, ValueError)) as caught:
            lance.dataset(uri).to_table()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert "too many open files" in str(caught.value).lower(), READ.format("lance-errors")


def test_a_damaged_older_version_stops_no_clean_up(uri: str, caplog: pytest.LogCaptureFixture):
    dataset = lance.dataset(uri)
    dataset.delete("a = 1")
    dataset.delete("a = 2")
    first = Path(uri, "_versions", dict(manifests(uri))[1])
    first.write_bytes(first.read_bytes()[:100])
    remove_orphan_files(lance.dataset(uri))
    assert "Skipped" in caplog.text, READ.format("lance-errors")


RACE = """
import sys, lance, pyarrow as pa
from lance_pipeline.storage.table_errors import ConflictError
from lance_pipeline.storage.tables import replace_rows
from lance.fragment import write_fragments

uri, schema = sys.argv[1], pa.schema([pa.field("a", pa.int64())])
print("ready", flush=True)
for number in map(int, sys.stdin):
    place = f"{uri}-{number}"
    try:
        fragments = write_fragments(pa.table({"a": [number]}, schema), place, schema=schema, mode="create")
        print(replace_rows(place, None, schema, fragments, {}).version, flush=True)
    except (ConflictError, OSError) as error:
        print(type(error).__name__, flush=True)
"""


def test_two_that_create_a_table_at_once_never_both_lose(tmp_path: Path):
    command = [sys.executable, "-c", RACE, str(tmp_path / "new.lance")]
    racers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=PROJECT)
        for _ in range(2)
    ]
    talks = [(racer.stdin, racer.stdout) for racer in racers if racer.stdin and racer.stdout]
    assert [answers.readline() for _, answers in talks] == ["ready\n"] * 2
    for number in range(30):
        for orders, _ in talks:
            orders.write(f"{number}\n")
            orders.flush()
        outcomes = {answers.readline().strip() for _, answers in talks}
        assert "1" in outcomes
        assert outcomes <= {"1", "ConflictError", "OSError"}
        assert lance.dataset(f"{tmp_path}/new.lance-{number}").count_rows() == 1
    for racer in racers:
        racer.communicate()
