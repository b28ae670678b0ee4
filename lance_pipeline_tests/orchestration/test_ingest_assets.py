"""Reports of the ingest assets: bad files, splits by fractions, progress and records."""

import os
import re
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import lance
import pytest

from lance_pipeline.ingest import crew
from lance_pipeline.orchestration.assets import lance_splits
from lance_pipeline.orchestration.records import RawImages, Split
from lance_pipeline.orchestration.runtime.progress import progress_reporter
from lance_pipeline_tests.image_folders import write_image_folder
from lance_pipeline_tests.orchestration.conftest import COUNTS, Graph, failure_of

SPLITS = ("train", "val", "test")
LANCE = tuple(f"lance_{split}" for split in SPLITS)
DATA = ("raw_images", *LANCE)
SHARES = {"train": 0.5, "val": 0.25, "test": 0.25}
OLD = 1_000_000_000


@pytest.fixture
def cut(graph: Graph) -> Graph:
    """A graph that splits one folder of classes by fractions."""
    graph.images = graph.images / "all"
    write_image_folder(graph.images, {"": {"cat": 30, "dog": 30}})
    graph.attributes["splits"] = {"fractions": SHARES}
    return graph


def spoil(graph: Graph, folder: str, kinds: str) -> None:
    """Add bad files: for each letter an empty one (e) or one that is not an image (n)."""
    for number, kind in enumerate(kinds):
        content = b"" if kind == "e" else b"no image"
        (graph.images / folder / f"{kind}{number}.png").write_bytes(content)


def data_versions(graph: Graph) -> dict[str, str]:
    """The data versions of the Lance datasets' latest materializations."""
    versions = {}
    for asset in LANCE:
        event = graph.instance.get_latest_materialization_event(dg.AssetKey(["tiny", asset]))
        assert event is not None
        assert event.asset_materialization is not None
        versions[asset] = (event.asset_materialization.tags or {})["dagster/data_version"]
    return versions


def paths_of(graph: Graph) -> dict[str, set[str]]:
    """The images of each split."""
    return {
        asset: set(lance.dataset(record.data.uri, version=record.data.version).to_table(["path"])["path"].to_pylist())
        for asset in LANCE
        for record in [graph.record(asset, Split)]
    }


def progress_of(graph: Graph, asset: str) -> list[dict[str, Any]]:
    """The progress observations of the asset, oldest first."""
    records = graph.instance.fetch_observations(dg.AssetKey(["tiny", asset]), limit=50).records
    observations = [record.asset_observation for record in reversed(records)]
    return [{name: value.value for name, value in one.metadata.items()} for one in observations if one is not None]


def lance_datasets() -> set[str]:
    """The names of all Lance datasets that have a version."""
    folder = Path(os.environ["LANCE_PIPELINE_DATA"], "lance")
    return {versions.parent.stem for versions in folder.glob("*.lance/_versions")}


def failure_details(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    failed = next(event for event in result.all_events if event.is_step_failure)
    data = failed.step_failure_data.user_failure_data
    assert data is not None
    return {name: value.value for name, value in data.metadata.items()}


def never_materialized(graph: Graph, *assets: str) -> bool:
    keys = [dg.AssetKey(["tiny", asset]) for asset in assets]
    return all(graph.instance.get_latest_materialization_event(key) is None for key in keys)


def test_bad_files_are_quarantined_and_shown(graph: Graph):
    graph.attributes["ingest"] = {"max_rejected_fraction": 0.5}
    spoil(graph, "val/cat", "nen")
    assert graph.materialize(*DATA).success

    page, record = graph.metadata("lance_val"), graph.record("lance_val", Split)
    assert (page["scanned"], page["dagster/row_count"], page["rejected"]) == (9, 6, 3)
    assert [row.data for row in page["rejected_by_reason"].records] == [
        {"reason": "not_an_image", "files": 2},
        {"reason": "empty", "files": 1},
    ]
    assert page["quarantine"] == record.quarantine.uri
    rejected = lance.dataset(page["quarantine"]).to_table().to_pylist()
    assert {(one["path"], one["label"], one["size"], one["reason"]) for one in rejected} == {
        ("cat/n0.png", "cat", 8, "not_an_image"),
        ("cat/e1.png", "cat", 0, "empty"),
        ("cat/n2.png", "cat", 8, "not_an_image"),
    }
    assert (record.scanned, record.rows, record.rejected) == (9, 6, 3)
    assert record.counts == COUNTS["val"]
    assert lance.dataset(record.quarantine.uri, version=record.quarantine.version).count_rows() == 3

    page, record = graph.metadata("lance_train"), graph.record("lance_train", Split)
    assert page["rejected"] == 0
    assert "rejected_by_reason" not in page
    assert (record.scanned, record.rejected) == (13, 0)
    assert lance.dataset(page["quarantine"]).count_rows() == 0


def test_repaired_files_leave_the_quarantine(graph: Graph):
    graph.attributes["ingest"] = {"max_rejected_fraction": 0.5}
    spoil(graph, "val/cat", "ne")
    assert graph.materialize(*DATA).success
    before = graph.record("lance_val", Split)
    (graph.images / "val" / "cat" / "e1.png").unlink()
    write_image_folder(graph.images / "more", {"": {"cat": 1}}, seed=9)
    shutil.move(graph.images / "more" / "cat" / "000.png", graph.images / "val" / "cat" / "n0.png")
    assert graph.materialize(*DATA).success

    page, record = graph.metadata("lance_val"), graph.record("lance_val", Split)
    assert (record.scanned, record.rows, record.rejected) == (7, 7, 0)
    assert (page["added"], page["removed"], page["rejected"]) == (1, 0, 0)
    assert "rejected_by_reason" not in page
    assert lance.dataset(record.quarantine.uri, version=record.quarantine.version).count_rows() == 0
    assert lance.dataset(before.quarantine.uri, version=before.quarantine.version).count_rows() == 2


def test_one_bad_file_in_twenty_is_within_the_default(graph: Graph):
    write_image_folder(graph.images, {"val": {"cat": 10, "dog": 9}})
    spoil(graph, "val/cat", "n")
    assert graph.materialize(*DATA).success
    assert graph.metadata("lance_val")["rejected"] == 1
    spoil(graph, "val/cat", "nn")
    message = failure_of(graph.materialize(*DATA))
    assert "`max_rejected_fraction`" in message
    assert "5.00%" in message


def test_on_bad_image_fail_names_all_bad_files(graph: Graph):
    graph.attributes["ingest"] = {"on_bad_image": "fail", "max_rejected_fraction": 1}
    spoil(graph, "val/dog", "nnnnnnne")
    result = graph.materialize(*DATA)
    message = failure_of(result)
    assert f"8 of 14 files of {graph.images / 'val'} cannot be read as images" in message
    assert "`on_bad_image` is `fail`" in message
    assert "not_an_image: 7" in message
    assert message.count("dog/n") == 5
    assert "empty: 1\n    dog/e7.png: the file is empty" in message
    assert "set `on_bad_image: quarantine`" in message

    details = failure_details(result)
    assert details["details_in_all"] == 8
    named = {line.split(": ")[0]: line.split(": ")[1] for line in details["details"].splitlines()}
    assert named == {f"dog/n{number}.png": "not_an_image" for number in range(7)} | {"dog/e7.png": "empty"}
    assert never_materialized(graph, *LANCE)
    assert "tiny_val" not in lance_datasets()


def test_on_bad_image_fail_has_nothing_against_good_files(graph: Graph):
    graph.attributes["ingest"] = {"on_bad_image": "fail", "max_rejected_fraction": 0}
    assert graph.materialize(*DATA).success


def test_files_of_one_name_in_two_splits_are_told_apart(graph: Graph):
    """By name, size and time, the bad file of train equals the good one of val."""
    graph.attributes["ingest"] = {"max_rejected_fraction": 0.5}
    good, bad = (graph.images / split / "cat" / "000.png" for split in ("val", "train"))
    bad.write_bytes(b"-" * good.stat().st_size)
    for file in (good, bad):
        os.utime(file, (OLD, OLD))
    assert graph.materialize(*DATA).success
    assert [graph.record(asset, Split).rejected for asset in LANCE] == [1, 0, 0]


def test_too_many_bad_files_fail_and_leave_what_was(graph: Graph):
    graph.attributes["ingest"] = {"max_rejected_fraction": 0.2}
    assert graph.materialize(*DATA).success
    before = graph.record("lance_val", Split)
    spoil(graph, "val/cat", "ne")
    result = graph.materialize(*DATA)
    message = failure_of(result)
    assert f"at least 2 of 8 files of {graph.images / 'val'} cannot be read as images" in message
    assert "`max_rejected_fraction`" in message
    assert "20.00%" in message
    assert "not_an_image: 1\n    cat/n0.png: " in message
    assert "empty: 1\n    cat/e1.png: the file is empty" in message
    details = failure_details(result)
    assert details["details_in_all"] == 2
    assert {line.split(": ")[0] for line in details["details"].splitlines()} == {"cat/n0.png", "cat/e1.png"}
    assert graph.record("lance_val", Split) == before
    assert lance.dataset(before.data.uri).version == before.data.version


def test_split_by_fractions_made_alone_is_the_same(cut: Graph):
    """Materialized alone before the others exist, together with them, and alone again."""
    assert cut.materialize("raw_images", "lance_val").success
    assert never_materialized(cut, "lance_train", "lance_test")
    assert lance_datasets() == {"tiny_listing", "tiny_val", "tiny_val_rejected"}
    alone = cut.record("lance_val", Split)
    assert cut.materialize(*DATA).success
    versions, paths = data_versions(cut), paths_of(cut)
    assert cut.record("lance_val", Split) == alone
    assert versions["lance_val"] == f"{alone.data.fingerprint}-white"

    assert cut.materialize("lance_val").success
    assert data_versions(cut) == versions
    assert cut.record("lance_val", Split) == alone

    assert cut.record("raw_images", RawImages).counts == {"": {"cat": 30, "dog": 30}}
    assert sum(len(names) for names in paths.values()) == len(set.union(*paths.values())) == 60
    records = [cut.record(asset, Split) for asset in LANCE]
    assert [record.scanned for record in records] == [record.rows for record in records]
    assert all(min(record.counts.values()) > 0 for record in records)
    assert len(paths["lance_train"]) > max(len(paths["lance_val"]), len(paths["lance_test"]))


def test_touched_files_change_no_data(cut: Graph):
    assert cut.materialize(*DATA).success
    versions = data_versions(cut)
    records = [cut.record(asset, Split) for asset in LANCE]
    raw = cut.record("raw_images", RawImages).listing
    for file in cut.images.rglob("*.png"):
        os.utime(file, (OLD, OLD))
    assert cut.materialize(*DATA).success

    assert cut.record("raw_images", RawImages).listing.fingerprint != raw.fingerprint
    assert data_versions(cut) == versions
    assert [cut.record(asset, Split) for asset in LANCE] == records
    assert all((cut.metadata(asset)["added"], cut.metadata(asset)["removed"]) == (0, 0) for asset in LANCE)


def test_salt_draws_anew(cut: Graph):
    assert cut.materialize(*DATA).success
    paths = paths_of(cut)
    cut.attributes["splits"] = {"fractions": SHARES | {"salt": "another"}}
    assert cut.materialize(*DATA).success
    redrawn = paths_of(cut)
    assert all(redrawn[asset] != paths[asset] for asset in LANCE)
    assert set.union(*redrawn.values()) == set.union(*paths.values())
    assert sum(len(names) for names in redrawn.values()) == 60


def test_fractions_leave_no_copies_in_two_splits(cut: Graph):
    cats = cut.images / "cat"
    for number in range(30):
        shutil.copy(cats / f"{number:03d}.png", cats / f"copy{number}.png")
    assert cut.materialize(*DATA).success
    for names in paths_of(cut).values():
        for number in range(30):
            assert (f"cat/{number:03d}.png" in names) == (f"cat/copy{number}.png" in names)


def test_fractions_of_pooled_folders_with_different_classes(graph: Graph):
    graph.images = graph.images / "pooled"
    write_image_folder(graph.images, {"base": {"cat": 30, "dog": 30}, "novel": {"fish": 30}, "left_out": {"owl": 5}})
    graph.attributes["splits"] = {"fractions": SHARES | {"pool": ["base", "novel"]}}
    assert graph.materialize(*DATA).success
    assert graph.record("raw_images", RawImages).classes == ["cat", "dog", "fish"]
    paths = paths_of(graph)
    for names in paths.values():
        assert {name.rsplit("/", 1)[0] for name in names} == {"base/cat", "base/dog", "novel/fish"}
    assert sum(len(names) for names in paths.values()) == len(set.union(*paths.values())) == 90
    for asset in LANCE:
        rows = lance.dataset(graph.record(asset, Split).data.uri).to_table(["label", "path", "split"]).to_pylist()
        assert all(row["path"].split("/")[1] == row["label"] for row in rows)
        assert {row["split"] for row in rows} == {asset.removeprefix("lance_")}


def test_fractions_that_leave_a_class_empty_fail_clearly(cut: Graph):
    for file in sorted((cut.images / "dog").iterdir())[2:]:
        file.unlink()
    message = failure_of(cut.materialize(*DATA))
    assert "'dog' in " in message
    assert "`salt`" in message
    assert never_materialized(cut, *LANCE)


def test_bad_files_of_fractions_are_in_one_quarantine_each(cut: Graph):
    cut.attributes["ingest"] = {"max_rejected_fraction": 0.5}
    spoil(cut, "cat", "nene")
    for number in range(8):
        (cut.images / "dog" / f"bad{number}.png").write_text(f"no image {number}")
    assert cut.materialize(*DATA).success
    records = [cut.record(asset, Split) for asset in LANCE]
    assert sum(record.scanned for record in records) == 72
    assert sum(record.rejected for record in records) == 12
    for record in records:
        assert record.scanned == record.rows + record.rejected
        assert lance.dataset(record.quarantine.uri).count_rows() == record.rejected


@pytest.fixture
def quick_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lance_splits, "progress_reporter", partial(progress_reporter, seconds=0))
    monkeypatch.setattr(crew, "_TASK_FILES", 2)


def assert_progress(seen: list[dict[str, Any]], what: str, total: int) -> None:
    """Progress was reported more than once, with growing counts up to the total."""
    done = [one["files_done"] for one in seen]
    assert len(done) > 1
    assert done == sorted(set(done))
    assert done[-1] == total
    for one in seen:
        assert one["progress"].startswith(f"{what}: {one['files_done']} of {total} files")


@pytest.mark.usefixtures("quick_progress")
def test_progress_shows_on_the_page_of_each_split(graph: Graph):
    assert graph.materialize("raw_images", "lance_train", "lance_val").success
    assert_progress(progress_of(graph, "lance_train"), "train", 13)
    seen = progress_of(graph, "lance_val")
    assert_progress(seen, "val", 6)
    assert seen[-1]["files_per_second"] > 0
    assert seen[-1]["time_left"] == "0:00:00"
    assert progress_of(graph, "lance_test") == []


@pytest.mark.usefixtures("quick_progress")
def test_progress_of_fractions_is_told_once(cut: Graph):
    assert cut.materialize(*DATA).success
    assert_progress(progress_of(cut, "lance_train"), "train and val and test", 60)
    assert progress_of(cut, "lance_val") == progress_of(cut, "lance_test") == []


def test_progress_is_silent_where_an_ingest_is_short(graph: Graph):
    assert graph.materialize("raw_images", "lance_train").success
    assert progress_of(graph, "lance_train") == []


@pytest.mark.parametrize(
    "strictness",
    [
        {"on_bad_image": "fail", "max_rejected_fraction": 1},
        {"max_rejected_fraction": 0.05},
    ],
    ids=["on_bad_image", "max_rejected_fraction"],
)
@pytest.mark.usefixtures("quick_progress")
def test_what_was_read_before_a_failure_is_kept(graph: Graph, strictness: dict[str, Any]):
    graph.attributes["ingest"] = strictness
    spoil(graph, "train/cat", "nnnnn")
    for file in graph.images.rglob("*.png"):
        os.utime(file, (OLD, OLD))
    assert f"`{next(iter(strictness))}`" in failure_of(graph.materialize("raw_images", "lance_train"))
    first = progress_of(graph, "lance_train")
    graph.attributes["ingest"] = {"max_rejected_fraction": 1}
    assert graph.materialize("lance_train").success
    second = progress_of(graph, "lance_train")[len(first) :]
    totals = [int(one["progress"].split(" of ")[1].split()[0]) for one in second]
    assert max(totals, default=0) < 18


def test_splits_that_have_changed_are_listed_first(graph: Graph):
    assert graph.materialize("raw_images").success
    graph.images = graph.images / "all"
    write_image_folder(graph.images, {"": {"cat": 30, "dog": 30}})
    graph.attributes["splits"] = {"fractions": SHARES}
    assert re.search(
        "`splits` of tiny has changed.*tiny/raw_images first", failure_of(graph.materialize("lance_train"))
    )
    assert graph.materialize("raw_images", *LANCE).success
