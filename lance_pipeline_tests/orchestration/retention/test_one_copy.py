"""The number of copies of the weights on disk, and when the checkpoint is removed."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from lance_pipeline.orchestration.record_io import RecordIOManager
from lance_pipeline.storage.usage import DiskUsage
from lance_pipeline.training.checkpoint import Checkpoints
from lance_pipeline_tests.mlflow_server import MlflowServer
from lance_pipeline_tests.orchestration.retention.conftest import Project
from lance_pipeline_tests.orchestration.retention.test_retention import Killed, record


def checkpoints(project: Project) -> list[Path]:
    return list((project.data / "checkpoints").rglob("checkpoint.pt"))


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MlflowServer]:
    server = MlflowServer(tmp_path / "server")
    server.start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    yield server
    server.stop()


def test_mlflow_has_the_file_of_the_model_folder(project: Project):
    run_id = project.train()
    model = record(project, run_id)
    weights = Path(model.folder) / "model.safetensors"
    (kept,) = (project.data / "mlflow" / "artifacts" / "tiny" / "models").glob("*/artifacts/artifacts")
    assert (kept / weights.name).samefile(weights)
    usage = DiskUsage()
    places = [project.data / "models", project.data / "mlflow" / "artifacts", project.data / "checkpoints"]
    assert usage.of(*places) < 1.02 * weights.stat().st_size


def test_the_checkpoint_goes_with_the_materialization_and_not_before(project: Project, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patch:
        patch.setattr(RecordIOManager, "handle_output", lambda *_: (_ for _ in ()).throw(OSError("killed")))
        assert not project.materialize("resnet34").success
    assert len(checkpoints(project)) == 1
    result = project.materialize("resnet34")
    assert result.success
    log = [entry.user_message or "" for entry in project.instance.all_logs(result.run_id)]
    assert any("Resuming training" in line for line in log)
    assert not any("Epoch 1/1:" in line for line in log)
    assert not checkpoints(project)


def test_a_checkpoint_that_was_left_goes_with_maintenance(project: Project, monkeypatch: pytest.MonkeyPatch):
    def killed(self: Checkpoints) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "remove", killed)
        # Dagster turns this exception into an error of the run.
        assert not project.materialize("resnet34").success
    assert checkpoints(project)
    assert project.materialize("maintenance").success
    assert not checkpoints(project)
    assert project.metadata("maintenance")["checkpoint_bytes_removed"] > 200_000_000


def test_a_server_is_asked_to_delete_what_this_project_made(project: Project, server: MlflowServer):
    first = project.train()
    client = MlflowClient(server.uri)
    gone = record(project, first)
    # A run of another user who trains on this dataset too.
    foreign = client.create_run(client.get_run(gone.mlflow_run_id).info.experiment_id, tags={"training_id": "theirs"})
    client.set_terminated(foreign.info.run_id, "FAILED")
    project.attributes["maintenance"] = {"keep": {"models": 1, "days": 0}}
    last = record(project, project.train())
    (served,) = client.search_runs([foreign.info.experiment_id], "attributes.status = 'FINISHED'")
    assert served.info.run_id == last.mlflow_run_id
    assert client.get_run(foreign.info.run_id).info.lifecycle_stage == "active"
    files = [path for path in Path(server.folder, "artifacts").rglob("*") if path.is_file()]
    assert not [path for path in files if gone.mlflow_run_id in path.parts]
    assert len([path for path in files if path.name == "model.safetensors"]) == 1
    assert (Path(last.folder) / "model.safetensors").stat().st_nlink == 1
