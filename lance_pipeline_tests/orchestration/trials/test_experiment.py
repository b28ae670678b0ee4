"""Trials on a real instance, and the state that they must not change."""

import os
import signal
import threading
from pathlib import Path
from typing import Any

import dagster as dg
import lance
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.loader import LoadingContextForTest

from lance_pipeline.orchestration.records import Model, Split
from lance_pipeline.orchestration.resources import default_resources
from lance_pipeline.orchestration.runtime.gpu import GpuResource
from lance_pipeline.orchestration.tracking.mlflow_tracking import MlflowTracking
from lance_pipeline.orchestration.trials.job import current_model
from lance_pipeline.orchestration.trials.listing import candidates_of, listing
from lance_pipeline.orchestration.trials.record import trials_of
from lance_pipeline.storage.usage import freed_by_removing
from lance_pipeline_tests.orchestration.conftest import Graph, failure_of
from lance_pipeline_tests.orchestration.trainings import read_until, training_project


def try_(graph: Graph, **config: Any) -> dg.ExecuteInProcessResult:
    job = graph.definitions.resolve_job_def("tiny_experiment")
    return job.execute_in_process(
        {"ops": {"tiny__experiment": {"config": config}}}, instance=graph.instance, raise_on_error=False
    )


def lines(graph: Graph) -> list[str]:
    resources = default_resources()
    return listing("tiny", graph.parsed, resources["io_manager"], graph.instance, resources["mlflow"])


@pytest.fixture
def later_version(finished_graph: Graph) -> int:
    """A version of the train split that no asset refers to."""
    table = lance.dataset(finished_graph.record("lance_train", Split).data.uri)
    table.update_metadata({"touched": "yes"})
    return table.latest_version


def state(graph: Graph) -> dict[str, Any]:
    """Everything that a trial must not change."""
    data = Path(default_resources()["lance_store"].datasets_root).parent
    assets = [key for asset in graph.assets for key in asset.keys]
    context = LoadingContextForTest(graph.instance)
    stale = CachingStaleStatusResolver(graph.instance, graph.definitions.resolve_asset_graph(), context)
    return {
        "events": {key: graph.instance.get_latest_materialization_event(key) for key in assets},
        "stale": {key: stale.get_status(key) for key in assets},
        "models": sorted(path for path in (data / "models").rglob("*")),
        "records": sorted(path for path in (data / "dagster" / "records").rglob("*.json")),
        "checkpoints": sorted(path for path in (data / "checkpoints" / "tiny").rglob("*")),
        "tags": [lance.dataset(graph.record(f"lance_{one}", Split).data.uri).tags.list() for one in ("train", "val")],
    }


def test_an_experiment_is_in_mlflow_only(finished_graph: Graph, later_version: int):
    before = state(finished_graph)
    result = try_(finished_graph, settings={"recipe.epochs": 1, "recipe.flip": True}, seeds=2)
    assert result.success
    assert state(finished_graph) == before
    tracking, train = MlflowTracking(), finished_graph.record("lance_train", Split)
    assert train.data.version < later_version
    found = list(trials_of(tracking, "tiny"))
    assert [(trial.recipe.epochs, trial.recipe.flip, trial.recipe.batch_size) for _, trial in found] == [
        (1, True, 4)
    ] * 2
    assert [trial.recipe.seed for _, trial in found] == [1, 0]
    for run, trial in found:
        assert trial.train == train.data
        data, info = run.client.get_run(run.run_id).data, run.client.get_run(run.run_id).info
        assert data.tags["lance_pipeline.experiment"] == "true"
        assert data.metrics["best_val_accuracy"] == trial.val_accuracy
        assert run.name.startswith("tiny-000")
        assert run.name.endswith(f" trial val {trial.val_accuracy * 100:.1f} %")
        outputs = run.client.get_run(run.run_id).outputs
        assert not (outputs and outputs.model_outputs)
        assert freed_by_removing(Path(str(info.artifact_uri).removeprefix("file://"))) < 500_000
    # The current model is the baseline.
    model = finished_graph.record("resnet34", Model)
    head, current, row, hint = lines(finished_graph)
    assert head.split()[0] == "name"
    assert current.startswith("tiny-0001 ")
    assert f"{model.val_accuracy * 100:.1f} %" in current
    assert row.startswith("tiny-0002 ")
    assert "recipe.epochs=1 recipe.flip=true" in row
    assert "± " in row
    assert "(2 seeds)" in row
    assert "make ui" in hint

    # A finished trial is not trained again.
    runs = len(MlflowTracking().client().search_runs([found[0][0].experiment_id]))
    assert try_(finished_graph, settings={"recipe.epochs": 1, "recipe.flip": True}).success
    assert len(MlflowTracking().client().search_runs([found[0][0].experiment_id])) == runs


def test_a_search_trains_each_with_each_and_ranks_by_val(finished_graph: Graph):
    assert try_(finished_graph, settings={"recipe.epochs": 1, "recipe.mixup": [0.1, 0.2]}).success
    found = candidates_of(MlflowTracking(), "tiny")
    assert {one.trials[0].recipe.mixup for one in found} >= {0.1, 0.2}
    accuracies = [one.accuracy for one in found]
    assert accuracies == sorted(accuracies, reverse=True)


def test_the_test_split_is_measured_only_when_asked_and_chooses_nothing(finished_graph: Graph):
    refused = try_(finished_graph, settings={"recipe.mixup": [0.1, 0.2]}, test=True)
    assert "test" in failure_of(refused)
    assert try_(finished_graph, settings={"recipe.momentum": 0.5, "model": "resnet18"}, test=True).success
    ((run, trial),) = (one for one in trials_of(MlflowTracking(), "tiny") if one[1].recipe.momentum == 0.5)
    assert trial.test_accuracy is not None
    assert trial.model == "resnet18"
    assert any("recipe.momentum=0.5 model=resnet18 " in line for line in lines(finished_graph))
    children = run.client.search_runs([run.experiment_id], f"tags.`mlflow.parentRunId` = '{run.run_id}'")
    assert [one.data.metrics["accuracy"] for one in children] == [trial.test_accuracy]
    assert lines(finished_graph)[0].split("  ")[-1] == "MLflow"
    assert " test " in lines(finished_graph)[0]


@pytest.mark.parametrize("settings", [{"recipe.epoch": 1}, {"recipe.epochs": 0}, {"recipe.mixup": []}])
def test_a_wrong_setting_fails_before_anything_starts(finished_graph: Graph, settings: dict[str, Any]):
    client = MlflowTracking().client()
    runs = len(client.search_runs(["1"]))
    assert next(iter(settings)) in failure_of(try_(finished_graph, settings=settings))
    assert len(client.search_runs(["1"])) == runs


def test_without_splits_the_command_that_makes_them_is_named(graph: Graph):
    assert "tiny/lance_train" in failure_of(try_(graph))
    assert current_model(default_resources()["io_manager"], graph.instance, dg.AssetKey(["tiny", "resnet34"])) is None


def test_a_trial_waits_for_the_device(finished_graph: Graph):
    waiting = GpuResource().hold("somebody else's training", on_wait=print)
    waiting.__enter__()
    timer = threading.Timer(4, lambda: waiting.__exit__(None, None, None))
    timer.start()
    result = try_(finished_graph, settings={"recipe.epochs": 1, "recipe.seed": 77})
    timer.join()
    assert result.success
    log = "\n".join(entry.user_message for entry in finished_graph.instance.all_logs(result.run_id))
    assert "somebody else's training" in log


def test_a_trial_that_was_stopped_resumes_with_its_run_and_number(tmp_path: Path):
    project = training_project(tmp_path / "project", epochs=2)
    command = ("lance_pipeline", "try", "flowers", "recipe.epochs=5", "-m", "small.definitions")
    process = project.shell.start(*command)
    read_until(process, "Epoch 2/5")
    # Ctrl-C in a terminal signals the whole process group.
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "Run the same experiment again" in project.log(project.latest_run())
    process = project.shell.start(*command)
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    assert "Resuming after epoch" in output
    assert "Epoch 1/5" not in output
    (run,) = project.client().search_runs(["1"])
    assert run.info.run_name is not None
    assert run.info.run_name.startswith("flowers-0001 trial val ")
    assert [step for step, _ in project.series(run.info.run_id)["val_accuracy"]] == [1, 2, 3, 4, 5]
    assert not any((project.data / "checkpoints" / ".trials" / "flowers").glob("*/"))
    with project.instance() as instance:
        assert instance.get_latest_materialization_event(dg.AssetKey(["flowers", "resnet34"])) is None

    listed = project.shell.run("lance_pipeline", "try", "flowers", "--list", "-m", "small.definitions")
    assert "flowers-0001" in listed.stdout
    before = project.defs.read_text()
    adopted = project.shell.run(
        "lance_pipeline", "try", "flowers", "--adopt", "flowers-0001", "-m", "small.definitions"
    )
    assert adopted.returncode == 0, adopted.stderr
    assert project.defs.read_text() == before.replace("epochs: 2", "epochs: 5")
