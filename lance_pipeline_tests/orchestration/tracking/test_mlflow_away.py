"""A training whose MLflow server stops and starts again."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from mlflow import MlflowClient

from lance_pipeline.orchestration.tracking.mlflow_tracking import MlflowTracking
from lance_pipeline_tests.mlflow_server import MlflowServer
from lance_pipeline_tests.orchestration.conftest import Graph, failure_of
from lance_pipeline_tests.orchestration.trainings import EPOCHS, SERIES, Project, read_until, training_project


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MlflowServer]:
    server = MlflowServer(tmp_path / "server")
    yield server
    server.stop()


@pytest.fixture
def project(tmp_path: Path, server: MlflowServer) -> Project:
    variables = {
        "MLFLOW_TRACKING_URI": server.uri,
        "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL": "0.5",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "2",
    }
    return training_project(tmp_path / "project", variables=variables)


def steps(client: MlflowClient, run_id: str, name: str) -> list[int]:
    return [point.step for point in client.get_metric_history(run_id, name)]


def assert_all_told(project: Project, server: MlflowServer) -> None:
    """MLflow has one ended run, with one point for each epoch, the model, and the system load."""
    client = MlflowClient(server.uri)
    (run,) = client.search_runs(["1"])
    assert run.info.status == "FINISHED"
    assert run.info.run_id == project.model().mlflow_run_id
    for name in SERIES:
        assert steps(client, run.info.run_id, name) == list(range(1, EPOCHS + 1))
    assert run.inputs is not None
    assert {one.dataset.name for one in run.inputs.dataset_inputs} == {"flowers_train", "flowers_val"}
    system = steps(client, run.info.run_id, "system/cpu_utilization_percentage")
    assert system == list(range(len(system)))
    assert system
    (model,) = client.search_logged_models(["1"])
    assert model.source_run_id == run.info.run_id


@pytest.mark.parametrize(("leave", "return_"), [("stop", "start"), ("freeze", "thaw")])
def test_lost_in_the_middle(project: Project, server: MlflowServer, leave: str, return_: str):
    server.start()
    process = project.start("resnet34")
    read_until(process, r"Epoch 1/4:")
    getattr(server, leave)()
    # Even a fast training cannot end before MLflow has everything.
    read_until(process, "metrics will be uploaded later")
    getattr(server, return_)()
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    assert "MLflow is there again, and has all metrics" in output
    assert_all_told(project, server)


def test_away_at_the_start(project: Project, server: MlflowServer, monkeypatch: pytest.MonkeyPatch):
    project.defs.write_text(f"{project.defs.read_text()}  retries: {{times: 1, delay: 0.1}}\n")
    process = project.start("resnet34")
    output, _ = process.communicate(timeout=200)
    assert process.returncode != 0
    assert "(1 of 1)" in output
    assert "Stack Trace" not in output
    assert f"MLflow at {server.uri} cannot be used" in output
    assert "Epoch" not in output

    monkeypatch.setenv("LANCE_PIPELINE_MLFLOW_UNREACHABLE", "continue")
    process = project.start("resnet34")
    read_until(process, r"Epoch 1/4:")
    server.start()
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    assert_all_told(project, server)


def test_away_at_the_end(graph: Graph, server: MlflowServer):
    mlflow = MlflowTracking(tracking_uri=server.uri, on_unreachable="continue", patience=1)
    graph.attributes["retries"] = {"times": 0}
    assert graph.materialize("raw_images", "lance_train", "lance_val").success
    message = failure_of(graph.materialize("resnet34", mlflow=mlflow))
    assert "the training is finished, but 2 of 2 epochs are not in MLflow yet" in message
    assert server.uri in message

    server.start()
    assert graph.materialize("resnet34", mlflow=mlflow).success
    client = MlflowClient(server.uri)
    (run,) = client.search_runs(["1"])
    assert run.info.status == "FINISHED"
    assert steps(client, run.info.run_id, "val_loss") == [1, 2]
    observed = graph.instance.fetch_observations(dg.AssetKey(["tiny", "resnet34"]), limit=10).records
    assert len(observed) == 2
