"""Checks of a model and its metrics, and the advice they give."""

import dagster as dg
import numpy as np
import pytest
from PIL import Image

from lance_pipeline.orchestration.record_io import RecordIOManager
from lance_pipeline.orchestration.records import Metrics, Model
from lance_pipeline_tests.orchestration.check_results import latest_check
from lance_pipeline_tests.orchestration.conftest import RECIPE, Graph


def evaluation(graph: Graph, asset: str, check: str) -> dg.AssetCheckEvaluation:
    found = latest_check(graph, asset, check)
    assert found is not None, f"{check} of {asset} never ran"
    return found


def execute(graph: Graph, asset: str, check: str) -> dg.ExecuteInProcessResult:
    """Execute a check as *Execute* on its page does."""
    key = dg.AssetCheckKey(dg.AssetKey(["tiny", asset]), check)
    job = graph.definitions.resolve_implicit_global_asset_job_def().get_subset(
        asset_selection=set(), asset_check_selection={key}
    )
    return job.execute_in_process(instance=graph.instance, raise_on_error=False)


def test_a_model_of_noise_is_no_better_than_guessing(graph: Graph):
    """The images are unrelated to their labels."""
    rng = np.random.default_rng(0)
    for path in graph.images.rglob("*.png"):
        Image.fromarray(rng.integers(0, 255, (12, 12, 3), np.uint8)).save(path)
    graph.attributes["recipe"] = RECIPE | {"epochs": 6}
    result = graph.materialize()
    assert result.success
    model = graph.record("resnet34", Model)
    assert model.train_accuracy is not None
    assert len(model.val_accuracies) == 6
    assert model.val_counts == {"cat": 3, "dog": 3}
    for asset in ("resnet34", "metrics_val", "metrics_test"):
        found = evaluation(graph, asset, "beats_guessing")
        assert found.severity == dg.AssetCheckSeverity.WARN
        assert found.passed == (not found.description)
        assert found.metadata["images"].value == (5 if asset == "metrics_test" else 6)
    failed = [one for one in ("metrics_val", "metrics_test") if not evaluation(graph, one, "beats_guessing").passed]
    assert failed, "one of five images each is right by chance, not all"
    assert "`image_size: 128`" in (evaluation(graph, failed[0], "beats_guessing").description or "")
    assert any("beats_guessing" in log.user_message for log in graph.instance.all_logs(result.run_id))


def test_metrics_far_below_those_of_the_model_before(graph: Graph):
    assert graph.materialize().success
    assert evaluation(graph, "metrics_val", "keeps_up").passed
    now = graph.record("metrics_val", Metrics)
    better = now.model_copy(update={"accuracy": 1.0, "images": 1000, "model_sha256": "another"})
    worse = now.model_copy(update={"accuracy": 0.5, "images": 1000})
    for record in (better, worse):
        graph.store("metrics_val", record)
    assert execute(graph, "metrics_val", "keeps_up").success
    found = evaluation(graph, "metrics_val", "keeps_up")
    assert not found.passed
    assert found.metadata["change"].value == -0.5
    assert "50.0%" in (found.description or "")
    # Evaluating the same model again does not compare it with itself.
    graph.store("metrics_val", worse)
    assert execute(graph, "metrics_val", "keeps_up").success
    assert not evaluation(graph, "metrics_val", "keeps_up").passed


@pytest.mark.parametrize("check", ["beats_guessing", "has_converged", "generalizes"])
def test_checks_are_of_the_version_that_is_there(graph: Graph, check: str):
    assert execute(graph, "resnet34", check).success
    assert "never materialized" in (evaluation(graph, "resnet34", check).description or "")
    split = {"uri": "x", "version": 1, "fingerprint": "y"}
    earlier = Model.model_validate(
        {
            "mlflow_run_id": "1",
            "folder": "x",
            "sha256": "z",
            "classes": ["cat", "dog"],
            "image_size": 32,
            "recipe": RECIPE,
            "train": split,
            "val": split,
            "best_epoch": 3,
            "val_accuracy": 0.5,
        }
    )
    graph.store("resnet34", earlier)
    assert execute(graph, "resnet34", check).success
    assert "earlier version" in (evaluation(graph, "resnet34", check).description or "")
    figures = {"train_accuracy": 1.0, "val_accuracies": [0.3, 0.4, 0.5], "val_counts": {"cat": 50, "dog": 50}}
    graph.store("resnet34", earlier.model_copy(update=figures))
    assert execute(graph, "resnet34", check).success
    found = evaluation(graph, "resnet34", check)
    assert not found.passed
    assert "`" in (found.description or "")
    assert graph.instance.get_latest_materialization_event(dg.AssetKey(["tiny", "resnet34"])) is not None
    assert RecordIOManager().read(graph.instance, dg.AssetKey(["tiny", "resnet34"]), Model).train_accuracy == 1.0
