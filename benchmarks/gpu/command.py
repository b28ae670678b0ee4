"""Materializes a dataset from the shell, as a user does, and collects the results."""

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
    """A run of all assets of a dataset.

    Attributes:
        seconds: from the start of the process to its end.
        steps: seconds of the steps of each kind, from the beginning of the first to the end of the last.
        epochs: the epochs of the training, as its page shows them, with shares from 0 to 1.
        metadata: the metadata of the model.
        metrics: the metrics of each evaluated split.
    """

    seconds: float
    steps: dict[str, float]
    epochs: list[dict[str, Any]]
    metadata: dict[str, Any]
    metrics: dict[str, dict[str, Any]]

    @property
    def mlflow_run(self) -> str:
        """The id of the MLflow run."""
        return str(self.metadata["mlflow_run_id"])


def small_project(root: Path) -> Shell:
    """A shell in a project with the tiny dataset ``flowers`` and its own data folder."""
    write_small_project(root)
    return new_shell(root, root / "data", {"XDG_RUNTIME_DIR": str(root)})


def materialize(shell: Shell, module: str, dataset: str) -> Materialized:
    """Run ``dagster asset materialize`` for all assets of a dataset.

    Raises:
        FailedCommandError: the command failed.
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
    # The page shows shares as percentages.
    epochs = [epoch | {"data_wait": float(epoch["data_wait"].strip("<>% ")) / 100} for epoch in model["epochs"]]
    return Materialized(seconds, steps, epochs, model, metrics)


def reproduced(shell: Shell, mlflow_run: str) -> tuple[bool, str]:
    """Run ``python -m lance_pipeline reproduce``; returns whether the result was bitwise equal, and the output."""
    done = shell.run("lance_pipeline", "reproduce", mlflow_run, timeout=_LIMIT_SECONDS)
    if "bit for bit" not in done.stdout and "Not the same" not in done.stdout:
        raise FailedCommandError((done.stderr.strip() or done.stdout.strip()).splitlines()[-1])
    return done.returncode == 0 and "The same, bit for bit." in done.stdout, done.stdout


def gpu_series(shell: Shell, mlflow_run: str) -> list[str]:
    """The names of the GPU metrics in the MLflow run."""
    run = MlflowClient(f"sqlite:///{shell.data / 'mlflow' / 'mlflow.db'}").get_run(mlflow_run)
    return sorted(name for name in run.data.metrics if name.startswith("system/gpu"))


def _metadata(instance: dg.DagsterInstance, dataset: str, asset: str) -> dict[str, Any]:
    """The metadata of the latest materialization."""
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
