"""A data set materialized from the shell, as a user does it, and what is known of it then."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
from mlflow import MlflowClient

from benchmarks.gpu.part import FailedCommandError
from benchmarks.training.instance import first, last, moments_of
from lance_pipeline_tests.conftest import Shell, new_shell
from lance_pipeline_tests.small_project import write_small_project

SMALL, OURS = "small.definitions", "lance_pipeline.definitions"
_LIMIT_SECONDS = 900
_STEPS = {"listing": "raw_images", "ingest": "lance_splits", "training": "resnet34", "evaluation": "metrics"}


@dataclass(frozen=True)
class Materialized:
    """A run of all assets of a data set.

    Attributes:
        seconds: from the start of the process to its end.
        steps: seconds of the steps of each kind, from the beginning of the first to the end of the last.
        epochs: of the training, as its page shows them, with shares from 0 to 1.
        metadata: of the model.
        metrics: of each split that was evaluated.
    """

    seconds: float
    steps: dict[str, float]
    epochs: list[dict[str, Any]]
    metadata: dict[str, Any]
    metrics: dict[str, dict[str, Any]]

    @property
    def mlflow_run(self) -> str:
        """Its id."""
        return str(self.metadata["mlflow_run_id"])


def small_project(root: Path) -> Shell:
    """A shell in a project with the data set ``flowers``, which is tiny, and a data folder of its own."""
    write_small_project(root)
    return new_shell(root, root / "data", {"XDG_RUNTIME_DIR": str(root)})


def materialize(shell: Shell, module: str, dataset: str) -> Materialized:
    """``dagster asset materialize`` of all assets of a data set.

    Raises:
        FailedCommandError: it failed.
    """
    command = ("dagster", "asset", "materialize", "-m", module, "--select", f"group:{dataset}")
    began = time.monotonic()
    done = shell.run(*command, timeout=_LIMIT_SECONDS)
    seconds = time.monotonic() - began
    if done.returncode:
        print(done.stdout, done.stderr, sep="\n", flush=True)
        raise FailedCommandError((done.stderr.strip() or done.stdout.strip()).splitlines()[-1])
    with shell.instance() as instance:
        run = instance.get_runs(limit=1)[0]
        moments = moments_of(instance, run.run_id)
        steps = {
            name: last(moments, "STEP_SUCCESS", step) - first(moments, "STEP_START", step)
            for name, step in _STEPS.items()
        }
        model = _metadata(instance, dataset, "resnet34")
        metrics = {split: _metadata(instance, dataset, f"metrics_{split}") for split in ("val", "test")}
    # Its page shows shares in per cent.
    epochs = [epoch | {"data_wait": float(epoch["data_wait"].strip("<>% ")) / 100} for epoch in model["epochs"]]
    return Materialized(seconds, steps, epochs, model, metrics)


def reproduced(shell: Shell, mlflow_run: str) -> tuple[bool, str]:
    """``python -m lance_pipeline reproduce``: whether it came to the same, bit for bit, and what it printed."""
    done = shell.run("lance_pipeline", "reproduce", mlflow_run, timeout=_LIMIT_SECONDS)
    if "bit for bit" not in done.stdout and "Not the same" not in done.stdout:
        raise FailedCommandError((done.stderr.strip() or done.stdout.strip()).splitlines()[-1])
    return done.returncode == 0 and "The same, bit for bit." in done.stdout, done.stdout


def gpu_series(shell: Shell, mlflow_run: str) -> list[str]:
    """The names of the GPU's metrics in the MLflow run."""
    run = MlflowClient(f"sqlite:///{shell.data / 'mlflow' / 'mlflow.db'}").get_run(mlflow_run)
    return sorted(name for name in run.data.metrics if name.startswith("system/gpu"))


def _metadata(instance: dg.DagsterInstance, dataset: str, asset: str) -> dict[str, Any]:
    """The latest materialization's."""
    event = instance.get_latest_materialization_event(dg.AssetKey([dataset, asset]))
    found = event.asset_materialization if event else None
    if found is None:
        raise FailedCommandError(f"{dataset}/{asset} was not materialized")
    return {
        name: [dict(record.data) for record in value.records]
        if isinstance(value, dg.TableMetadataValue)
        else value.value
        for name, value in found.metadata.items()
    }
