"""Repeating a training from its MLflow run, with the real command line."""

import subprocess
import sys
from typing import Any

import lance
import pytest

from lance_pipeline.orchestration.cli.reproduction import training_and_weights
from lance_pipeline.orchestration.records import Model, Training
from lance_pipeline.orchestration.tracking.mlflow_tracking import MlflowTracking
from lance_pipeline.orchestration.tracking.training_log import TRAINING_FILE
from lance_pipeline_tests.orchestration.conftest import Graph


def reproduce(run_id: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lance_pipeline", "reproduce", run_id]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)


@pytest.fixture
def run_id(finished_graph: Graph) -> str:
    return finished_graph.record("resnet34", Model).mlflow_run_id


def test_it_is_the_same_bit_for_bit(finished_graph: Graph, run_id: str):
    finished = reproduce(run_id)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    lines = [" ".join(line.split()) for line in finished.stdout.splitlines()]
    assert {f"{what} unchanged" for what in ("environment", "epoch 1/2", "epoch 2/2", "weights")} <= set(lines)
    assert "The same, bit for bit." in finished.stdout
    # Neither an asset nor MLflow has changed.
    assert finished_graph.record("resnet34", Model).mlflow_run_id == run_id


def _pretend(run_id: str, **fields: Any) -> None:
    """Change the record as if the training had been logged with these fields."""
    run = MlflowTracking().existing_run(run_id)
    run.log_file(training_and_weights(run)[0].model_copy(update=fields).model_dump_json().encode(), TRAINING_FILE)


@pytest.fixture
def recorded(run_id: str) -> Training:
    """The training's record, restored afterwards."""
    return training_and_weights(MlflowTracking().existing_run(run_id))[0]


def test_what_is_different_is_named(run_id: str, recorded: Training):
    packages = recorded.environments[0]["packages"] | {"torch": "1.0"}
    environments = [recorded.environments[0] | {"packages": packages}]
    history = [recorded.history[0], recorded.history[1] | {"val_loss": 0.25}]
    recipe = recorded.recipe.model_copy(update={"seed": 1})
    _pretend(run_id, environments=environments, history=history, recipe=recipe, code="0", device="cuda:99")
    finished = reproduce(run_id)
    _pretend(run_id, **vars(recorded))
    assert finished.returncode == 1
    for part in (
        "`device: cuda:99`",
        "device was cuda:99 and is ",
        "packages.torch was 1.0 and is ",
        "code was 0 and is ",
        "val_loss was 0.25 and is ",
        " apart, in ",
        "Not the same.",
    ):
        assert part in finished.stdout


@pytest.mark.parametrize("name", ["no-such-run", "a run without a training"])
def test_a_run_without_a_record_is_refused(finished_graph: Graph, name: str):
    client = MlflowTracking().client()
    run = client.create_run("0").info.run_id if " " in name else name
    finished = reproduce(run)
    assert finished.returncode == 1
    assert finished.stderr.startswith("lance-pipeline: ")
    assert run in finished.stderr
    assert "Traceback" not in finished.stderr


def test_data_that_is_gone_is_named(run_id: str, recorded: Training, finished_graph: Graph):
    _pretend(run_id, train=recorded.train.model_copy(update={"version": 99}))
    finished = reproduce(run_id)
    _pretend(run_id, **vars(recorded))
    assert finished.returncode == 1
    assert recorded.train.uri in finished.stderr
    assert "99" in finished.stderr
    assert lance.dataset(recorded.train.uri).version != 99
