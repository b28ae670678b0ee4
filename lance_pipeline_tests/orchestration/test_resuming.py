"""A training that is killed, terminated or interrupted in a real shell, and materialized again."""

import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest
from mlflow import MlflowClient
from mlflow.entities import ViewType

from lance_pipeline.orchestration.record_io import RecordIOManager
from lance_pipeline.orchestration.records import Model
from lance_pipeline_tests.conftest import PROJECT
from lance_pipeline_tests.small_project import write_small_project

SERIES = ("train_loss", "val_loss", "val_accuracy", "val_macro_f1", "learning_rate")
EPOCHS = 4


@dataclass
class Project:
    """The small project, with a training of some epochs, and a data folder of its own."""

    root: Path

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def environment(self) -> dict[str, str]:
        own = {
            "LANCE_PIPELINE_DATA": str(self.data),
            "DAGSTER_HOME": str(self.data / "dagster"),
            "TMPDIR": str(self.root),
        }
        return os.environ | own | {"PYTHONPATH": str(self.root), "PYTHONUNBUFFERED": "1"}

    def start(self, *selection: str, config: str | None = None) -> subprocess.Popen[str]:
        """``dagster asset materialize`` in a process group of its own, as a shell starts it."""
        keys = ",".join(f"flowers/{asset}" for asset in selection)
        command = ["dagster", "asset", "materialize", "-m", "small.definitions", "--select", keys]
        return subprocess.Popen(
            [sys.executable, "-m", *command, *(["--config-json", config] if config else [])],
            cwd=self.root,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def materialize(self, *selection: str, config: str | None = None) -> str:
        """What a run that succeeds has printed."""
        process = self.start(*selection, config=config)
        output, _ = process.communicate(timeout=200)
        assert process.returncode == 0, output
        return output

    def model(self) -> Model:
        with dg.DagsterInstance.from_config(str(self.data / "dagster")) as instance:
            records = RecordIOManager(folder=str(self.data / "dagster" / "records"))
            return records.read(instance, dg.AssetKey(["flowers", "resnet34"]), Model)

    def client(self) -> MlflowClient:
        return MlflowClient(f"sqlite:///{self.data / 'mlflow' / 'mlflow.db'}")

    def series(self, run_id: str) -> dict[str, list[tuple[int, float]]]:
        """Step and value of every point in MLflow."""
        client = self.client()
        return {name: [(one.step, one.value) for one in client.get_metric_history(run_id, name)] for name in SERIES}

    def mlflow_statuses(self) -> list[str]:
        """Of all runs, the latest first."""
        runs = self.client().search_runs(["1"], run_view_type=ViewType.ALL, order_by=["attributes.start_time DESC"])
        return [run.info.status for run in runs]

    def dagster_statuses(self) -> list[str]:
        """Of all runs, the latest first."""
        with dg.DagsterInstance.from_config(str(self.data / "dagster")) as instance:
            return [run.status.value for run in instance.get_runs()]

    def processes(self) -> list[int]:
        """The living processes that belong to this project's runs."""
        mark, found = f"LANCE_PIPELINE_DATA={self.data}".encode(), []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                alive = (folder / "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
                if alive and mark in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
        return found


def _project(root: Path) -> Project:
    write_small_project(root)
    defs = root / "small" / "defs" / "flowers" / "defs.yaml"
    defs.write_text(defs.read_text().replace("epochs: 2", f"epochs: {EPOCHS}"))
    project = Project(root)
    (project.data / "dagster").mkdir(parents=True)
    (project.data / "dagster" / "dagster.yaml").write_text((PROJECT / "dagster.yaml").read_text())
    project.materialize("raw_images", "lance_train", "lance_val")
    return project


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """With its splits and one model, of a training that nothing has interrupted."""
    project = _project(tmp_path_factory.mktemp("project"))
    project.materialize("resnet34")
    return project


@pytest.fixture(scope="module")
def expected(project: Project) -> tuple[str, dict[str, list[tuple[int, float]]]]:
    """The digest of that model's weights, and its series."""
    model = project.model()
    return model.sha256, project.series(model.mlflow_run_id)


def read_until(process: subprocess.Popen[str], pattern: str) -> str:
    """The output until a line has the pattern."""
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line)
        if re.search(pattern, line):
            return "".join(lines)
    raise AssertionError("".join(lines))


def end(process: subprocess.Popen[str], how: str) -> str:
    """Send the signal, and return what was still printed once all is over."""
    name, target = how.split(" to the ")
    number = signal.Signals[name]
    (os.killpg if target == "group" else os.kill)(process.pid, number)
    output, _ = process.communicate(timeout=100)
    assert process.returncode != 0
    return output


WAYS = [
    "SIGKILL to the group",
    "SIGKILL to the parent",
    "SIGTERM to the group",
    "SIGTERM to the parent",
    "SIGINT to the group",
]


@pytest.mark.parametrize("how", WAYS)
def test_a_training_that_was_ended_goes_on(project: Project, expected, how: str):
    process = project.start("resnet34")
    read_until(process, r"Epoch 2/4:")
    end(process, how)
    assert project.processes() == []
    # Who is killed can tell nobody.
    assert project.mlflow_statuses()[0] == ("RUNNING" if how == "SIGKILL to the group" else "KILLED")

    output = project.materialize("resnet34")
    assert "Goes on with the interrupted training" in output
    assert "Epoch 1/4" not in output
    model = project.model()
    assert (model.sha256, project.series(model.mlflow_run_id)) == expected
    assert set(project.mlflow_statuses()) == {"FINISHED"}
    assert project.dagster_statuses()[:2] == ["SUCCESS", "FAILURE"]


def test_what_makes_a_training_begin_anew_is_told(project: Project):
    assert "Trains anew: the last training has ended" in project.materialize("resnet34")
    process = project.start("resnet34")
    read_until(process, r"Epoch 1/4:")
    end(process, "SIGKILL to the group")

    defs = project.root / "small" / "defs" / "flowers" / "defs.yaml"
    defs.write_text(defs.read_text().replace(f"epochs: {EPOCHS}", "epochs: 1"))
    assert "Trains anew: recipe.epochs was 4 and is 1" in project.materialize("resnet34")
    assert project.mlflow_statuses()[:2] == ["FINISHED", "KILLED"]
    fresh = '{"ops": {"flowers__resnet34": {"config": {"fresh": true}}}}'
    assert "Trains anew, as `fresh` asks for" in project.materialize("resnet34", config=fresh)
