"""The whole run of the dataset ``digits``, from the start of its process to its end: from the shell, and plain."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable

import dagster as dg

from benchmarks.measure import REPO
from benchmarks.training.instance import first, last, make_instance, moments_of
from benchmarks.training.timed import PARTS, Timed

_MATERIALIZE = ("-m", "dagster", "asset", "materialize", "-m", "lance_pipeline.definitions", "--select", "group:digits")
_SPAWN = json.dumps({"execution": {"config": {"start_method": {"spawn": {}}}}})
_STEPS = {"ingest": "lance_splits", "training": "resnet34", "evaluation": "metrics"}


def run_plain(work: str) -> Timed:
    """Run everything in one process, without Dagster and MLflow; ``work`` is an empty folder."""
    data = os.path.join(work, "data")
    began = time.time()
    done = _run(work, data, "-m", "benchmarks.training.plain_run", data)
    ended = time.time()
    if done.returncode:
        return Timed(error=_complaint(done))
    facts = json.loads(done.stdout.strip().splitlines()[-1])
    parts = _parts(began, facts["at"] | {"end": ended}) | {"epochs": facts["epochs"], "best": facts["best"]}
    return Timed(seconds=ended - began, parts=parts)


def run_shell(work: str) -> Timed:
    """Run the command of a user, with a new data folder and instance; ``work`` is an empty folder."""
    return _materialized(work)


def run_spawning(work: str) -> Timed:
    """The same without the fork server: each step does all its imports."""
    return _materialized(work, "--config-json", _SPAWN)


RUNS: dict[str, Callable[[str], Timed]] = {"plain": run_plain, "shell": run_shell, "spawn": run_spawning}


def _materialized(work: str, *more: str) -> Timed:
    data = os.path.join(work, "data")
    home = make_instance(data)
    began = time.time()
    done = _run(work, data, *_MATERIALIZE, *more)
    ended = time.time()
    if done.returncode:
        return Timed(error=_complaint(done))
    with dg.DagsterInstance.from_config(home) as instance:
        (run,) = instance.get_runs()
        moments = moments_of(instance, run.run_id)
        epochs = _epochs(instance, run.run_id)
    at = {"start": first(moments, "STEP_START"), "end": ended}
    at |= {name: last(moments, "STEP_SUCCESS", step) for name, step in _STEPS.items()}
    # The part spent on starting the processes of all steps.
    steps = {one.step for one in moments if one.event == "STEP_START"}
    starting = sum(first(moments, "STEP_START", one) - first(moments, "STEP_WORKER_STARTING", one) for one in steps)
    parts = _parts(began, at) | {
        "epochs": sum(duration for duration, _ in epochs),
        "best": max(accuracy for _, accuracy in epochs),
        "before_run": first(moments, "PIPELINE_START") - began,
        "starting": starting,
    }
    return Timed(seconds=ended - began, parts=parts)


def _epochs(instance: dg.DagsterInstance, run_id: str) -> list[tuple[float, float]]:
    """Duration and validation accuracy of each epoch, as the training reports them."""
    found: list[tuple[float, float]] = []
    for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_OBSERVATION):
        observation = entry.asset_observation
        if observation is not None and "duration" in observation.metadata:
            values = (observation.metadata[key].value for key in ("duration", "val_accuracy"))
            duration, accuracy = (float(str(value)) for value in values)
            found.append((duration, accuracy))
    return found


def _run(work: str, data: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a Python process in the folder ``work``, where no ``.env`` changes its settings."""
    own = {
        "LANCE_PIPELINE_DATA": data,
        "DAGSTER_HOME": os.path.join(data, "dagster"),
        "LANCE_PIPELINE_DEVICE": "cpu",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PYTHONPATH": REPO,
        "TMPDIR": work,
        # Device locks are in the runtime folder, so this run does not wait for other trainings.
        "XDG_RUNTIME_DIR": work,
    }
    # Flush what earlier runs have written, so that it does not slow down this one.
    os.sync()
    command, environment = [sys.executable, *arguments], os.environ | own
    return subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=False)  # noqa: S603


def _parts(began: float, at: dict[str, float]) -> dict[str, float]:
    """The seconds of each part, given the time at which it ended."""
    times = [began, *(at[name] for name in PARTS)]
    return {name: over - before for name, before, over in zip(PARTS, times, times[1:], strict=False)}


def _complaint(done: subprocess.CompletedProcess[str]) -> str:
    lines = (done.stderr.strip() or done.stdout.strip() or f"exit status {done.returncode}").splitlines()
    return lines[-1]
