"""Checks executed without materializing their asset: on its current version."""

import shutil
from collections.abc import Collection
from pathlib import Path

import dagster as dg
import lance
import numpy as np
import pytest

from lance_pipeline.orchestration.records import Split
from lance_pipeline.orchestration.resources import default_resources
from lance_pipeline.quality.split_checks import SPLIT_CHECKS
from lance_pipeline_tests.image_folders import class_image
from lance_pipeline_tests.orchestration.check_results import DATA, check_of, latest_check, runs_of
from lance_pipeline_tests.orchestration.conftest import Graph

ALL = {check.name for check in SPLIT_CHECKS}


def execute(graph: Graph, asset: str, names: Collection[str]) -> dg.ExecuteInProcessResult:
    """Execute checks as *Execute* on an asset's page does."""
    keys = [dg.AssetCheckKey(dg.AssetKey(["tiny", asset]), name) for name in names]
    return dg.materialize(
        graph.assets,
        selection=dg.AssetSelection.checks(*keys),
        instance=graph.instance,
        resources=default_resources(),
        raise_on_error=False,
    )


def evaluations(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    assert result.success
    assert not result.get_asset_materialization_events()
    return {one.check_name: one for one in result.get_asset_check_evaluations()}


def test_checks_judge_the_version_that_the_latest_materialization_names(graph: Graph):
    assert graph.materialize(*DATA).success
    before = runs_of(graph)
    record = graph.record("lance_train", Split)
    # Neither files added since then nor a later version are checked.
    class_image(0, np.random.default_rng(1)).save(graph.images / "train" / "cat" / "new.png")
    shutil.copy(graph.images / "train" / "cat" / "000.png", graph.images / "train" / "dog" / "copy.png")
    lance.dataset(record.data.uri).delete("label = 'dog'")
    found = evaluations(execute(graph, "lance_train", ALL))
    assert found.keys() == ALL
    assert {name for name, one in found.items() if not one.passed} == {"few_images"}
    assert found["counts_reconcile"].metadata["rows"].value == 13
    target = found["leakage"].target_materialization_data
    assert target is not None
    assert target.run_id == before["lance_train"]
    assert runs_of(graph) == before
    assert graph.record("lance_train", Split) == record


def test_one_check_alone_leaves_the_results_of_the_others(graph: Graph):
    assert graph.materialize(*DATA).success
    earlier = check_of(graph, "val", "schema")
    found = evaluations(execute(graph, "lance_val", ["few_images"]))
    assert found.keys() == {"few_images"}
    assert check_of(graph, "val", "schema") == earlier


def test_what_fails_is_listed_and_changes_no_asset(graph: Graph):
    shutil.copy(graph.images / "train" / "cat" / "000.png", graph.images / "val" / "cat" / "copy.png")
    assert graph.materialize(*DATA).success
    path = check_of(graph, "val", "leakage").metadata["full_list"].value
    Path(str(path)).unlink()
    graph.attributes["checks"] = {"leakage": "fail"}
    before = runs_of(graph)
    result = execute(graph, "lance_val", ["leakage"])
    # Dagster marks the run of a failing blocking check as failed; it is not a run of the asset.
    assert not result.success
    (one,) = result.get_asset_check_evaluations()
    assert not one.passed
    assert one.severity == dg.AssetCheckSeverity.ERROR
    assert Path(str(path)).is_file()
    assert runs_of(graph) == before


@pytest.mark.parametrize(("asset", "check"), [("lance_train", "leakage"), ("raw_images", "same_classes")])
def test_an_asset_that_was_never_materialized_has_nothing_to_check(graph: Graph, asset: str, check: str):
    (one,) = evaluations(execute(graph, asset, [check])).values()
    assert not one.passed
    assert one.description is not None
    assert f"tiny/{asset} was never materialized" in one.description
    assert "dagster asset materialize" in one.description


def test_the_listing_is_judged_by_its_record(graph: Graph):
    assert graph.materialize("raw_images").success
    shutil.rmtree(graph.images)
    assert evaluations(execute(graph, "raw_images", ["same_classes"]))["same_classes"].passed


def test_stored_rows_are_verified_without_maintenance(graph: Graph):
    assert graph.materialize("raw_images", "lance_train").success
    checks = [f"{split}_rows_are_intact" for split in ("train", "val")]
    found = evaluations(execute(graph, "maintenance", checks))
    assert found["train_rows_are_intact"].passed
    assert not found["val_rows_are_intact"].passed
    assert "tiny/lance_val was never materialized" in (found["val_rows_are_intact"].description or "")
    uri = graph.record("lance_train", Split).data.uri
    (data,) = (Path(uri) / "data").glob("*.lance")
    content = bytearray(data.read_bytes())
    content[content.index(b"IDAT") + 20] ^= 1
    data.write_bytes(content)
    (one,) = evaluations(execute(graph, "maintenance", checks[:1])).values()
    assert not one.passed
    assert one.metadata["damaged_rows"].value == 1
    assert latest_check(graph, "lance_train", "leakage") is not None


def test_a_split_is_made_beside_checks_of_another(graph: Graph):
    assert graph.materialize(*DATA).success
    key = dg.AssetCheckKey(dg.AssetKey(["tiny", "lance_val"]), "few_images")
    before = runs_of(graph)
    result = dg.materialize(
        graph.assets,
        selection=dg.AssetSelection.assets(["tiny", "lance_test"]) | dg.AssetSelection.checks(key),
        instance=graph.instance,
        resources=default_resources(),
    )
    found = {(one.asset_key.path[-1], one.check_name) for one in result.get_asset_check_evaluations()}
    assert found == {("lance_val", "few_images"), *(("lance_test", name) for name in ALL)}
    changed = {name for name, run in runs_of(graph).items() if run != before[name]}
    assert changed == {"lance_test"}
