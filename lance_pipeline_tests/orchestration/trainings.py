"""The small project in a real shell, where its training is started and interrupted."""

import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
from mlflow import MlflowClient
from mlflow.entities import ViewType

from lance_pipeline.orchestration.record_io import RecordIOManager
from lance_pipeline.orchestration.records import Model
from lance_pipeline_tests.browser.launcher import await_condition
from lance_pipeline_tests.conftest import Shell, new_shell
from lance_pipeline_tests.processes import processes_of
from lance_pipeline_tests.small_project import write_small_project

SERIES = ("train_loss", "val_loss", "val_accuracy", "val_macro_f1", "learning_rate")
EPOCHS = 4


@dataclass(frozen=True)
class Project:
    """The small project, with a training of some epochs and a separate data folder."""

    shell: Shell

    @property
    def root(self) -> Path:
        return self.shell.folder

    @property
    def data(self) -> Path:
        return self.shell.data

    @property
    def defs(self) -> Path:
        """The dataset's YAML file."""
        return self.root / "small" / "defs" / "flowers" / "defs.yaml"

    def start(self, *selection: str, config: str | None = None, dataset: str = "flowers") -> subprocess.Popen[str]:
        """Start ``dagster asset materialize`` of these assets of a dataset."""
        keys = ",".join(f"{dataset}/{asset}" for asset in selection)
        command = ["dagster", "asset", "materialize", "-m", "small.definitions", "--select", keys]
        return self.shell.start(*command, *(["--config-json", config] if config else []))

    def materialize(self, *selection: str, config: str | None = None, dataset: str = "flowers") -> str:
        """The output of a successful run."""
        process = self.start(*selection, config=config, dataset=dataset)
        output, _ = process.communicate(timeout=200)
        assert process.returncode == 0, output
        return output

    def instance(self) -> AbstractContextManager[dg.DagsterInstance]:
        return self.shell.instance()

    def model(self) -> Model:
        with self.instance() as instance:
            records = RecordIOManager(folder=str(self.data / "dagster" / "records"))
            return records.read(instance, dg.AssetKey(["flowers", "resnet34"]), Model)

    def client(self) -> MlflowClient:
        return MlflowClient(f"sqlite:///{self.data / 'mlflow' / 'mlflow.db'}")

    def series(self, run_id: str) -> dict[str, list[tuple[int, float]]]:
        """Step and value of every metric point in MLflow."""
        client = self.client()
        return {name: [(one.step, one.value) for one in client.get_metric_history(run_id, name)] for name in SERIES}

    def mlflow_statuses(self) -> list[str]:
        """The statuses of all MLflow runs, the latest first."""
        runs = self.client().search_runs(["1"], run_view_type=ViewType.ALL, order_by=["attributes.start_time DESC"])
        return [run.info.status for run in runs]

    def dagster_statuses(self) -> list[str]:
        """The statuses of all Dagster runs, the latest first."""
        with self.instance() as instance:
            return [run.status.value for run in instance.get_runs()]

    def wait_for_checkpoint(self) -> None:
        """Wait until the current training has a checkpoint with weights."""
        files = self.data / "checkpoints"
        await_condition(
            lambda: any(file.stat().st_size > 1e6 for file in files.rglob("checkpoint.pt")), 60, "a checkpoint"
        )

    def runs(self) -> list[str]:
        """The ids of all runs, the latest first."""
        with self.instance() as instance:
            return [run.run_id for run in instance.get_runs()]

    def latest_run(self) -> str:
        """The id of the latest run."""
        return self.runs()[0]

    def log(self, run_id: str) -> str:
        """The messages on the run's page."""
        with self.instance() as instance:
            return "\n".join(entry.user_message or entry.message for entry in instance.all_logs(run_id))

    def mark_as_canceled(self, run_id: str) -> None:
        """Mark the run as canceled, as the UI does with a run that it cannot reach."""
        with self.instance() as instance:
            run = instance.get_run_by_id(run_id)
            assert run is not None
            instance.report_run_canceled(run)

    def processes(self) -> set[int]:
        """The living processes that belong to this project."""
        return set(processes_of(self.data))


def training_project(root: Path, epochs: int = EPOCHS, variables: Mapping[str, str] | None = None) -> Project:
    """The project below ``root``, with splits, no model, and these environment variables in its shell."""
    write_small_project(root)
    # Devices are locked per runtime folder, so this never waits for another test's training. The path of the folder for
    # temporary files must be short, because sockets are created there.
    folder = tempfile.mkdtemp()
    own = {
        "TMPDIR": folder,
        "XDG_RUNTIME_DIR": folder,
        "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep),
        "PYTHONUNBUFFERED": "1",
    }
    project = Project(new_shell(root, root / "data", {**own, **(variables or {})}))
    project.defs.write_text(project.defs.read_text().replace("epochs: 2", f"epochs: {epochs}"))
    project.materialize("raw_images", "lance_train", "lance_val")
    return project


def read_until(process: subprocess.Popen[str], pattern: str) -> str:
    """The output up to the first line that matches the pattern."""
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line)
        if re.search(pattern, line):
            return "".join(lines)
    raise AssertionError("".join(lines))


def end(process: subprocess.Popen[str], how: str) -> str:
    """Send the signal, such as "SIGKILL to the group", and return the remaining output after all processes ended."""
    name, target = how.split(" to the ")
    number = signal.Signals[name]
    (os.killpg if target == "group" else os.kill)(process.pid, number)
    output, _ = process.communicate(timeout=100)
    assert process.returncode != 0
    return output
