"""Runs the demo from the shell on the GPU, and reproduces its training."""

import time
from pathlib import Path

from benchmarks.gpu.command import OURS, SMALL, gpu_series, materialize, reproduced, small_project
from benchmarks.gpu.part import Figures, Job
from lance_pipeline_tests.conftest import new_shell


def measure(job: Job, figures: Figures) -> None:
    """Materialize all assets of ``digits`` (in a trial, of a tiny dataset), then run ``reproduce``."""
    folder = Path(job.work)
    if job.tiny:
        shell, module, dataset = small_project(folder / "small"), SMALL, "flowers"
    else:
        # Training ends before MLflow's own first sample of GPU metrics, after ten seconds.
        variables = {"XDG_RUNTIME_DIR": job.work, "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL": "0.5"}
        shell = new_shell(folder / "elsewhere", folder / "data", variables)
        module, dataset = OURS, "digits"
    done = materialize(shell, module, dataset)
    figures.put("seconds", done.seconds)
    figures.put("dataset", dataset)
    figures.put("device", done.metadata["device"])
    figures.put("precision", done.metadata["precision"])
    figures.put("epochs", done.epochs)
    figures.put("accuracy", {split: one["accuracy"] for split, one in done.metrics.items()})
    with figures.attempt("GPU metrics in MLflow"):
        figures.put("gpu_series", gpu_series(shell, done.mlflow_run))
    with figures.attempt("reproduce"):
        began = time.monotonic()
        same, printed = reproduced(shell, done.mlflow_run)
        figures.put("reproduced", {"same": same, "seconds": time.monotonic() - began, "printed": printed.splitlines()})
