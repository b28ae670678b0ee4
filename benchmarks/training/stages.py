"""Runs a stage of a training in a separate process: ``python -m benchmarks.training.stages NAME ROOT DATA EPOCHS``.

ROOT is a folder of classes, DATA the data folder. ``prepare`` creates the datasets; the other stages train on them. The
last line printed has the measurements as JSON.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import dagster as dg

from benchmarks.measure import own_peak
from benchmarks.training.bare import train_bare
from benchmarks.training.instance import first, last, make_instance, moments_of
from lance_pipeline.freed_memory import keep_freed_memory
from lance_pipeline.images import CachePlace, LanceSplit
from lance_pipeline.orchestration.assets.lance_splits import build_lance_splits
from lance_pipeline.orchestration.assets.model import build_model
from lance_pipeline.orchestration.assets.raw_images import build_raw_images
from lance_pipeline.orchestration.attributes import ImageClassifierAttributes
from lance_pipeline.orchestration.dataset import Dataset
from lance_pipeline.orchestration.resources import default_resources
from lance_pipeline.process_settings import speed_up_process
from lance_pipeline.training import fit
from lance_pipeline.training.checkpoint import Checkpoints, Snapshot
from lance_pipeline.training.device import choose_device
from lance_pipeline.training.history import Epoch
from lance_pipeline.training.inputs import TrainingInputs
from lance_pipeline.training.loop import Trained
from lance_pipeline.training.recipe import Recipe
from lance_pipeline.training.weights import ModelCard

Facts = dict[str, Any]

IMAGE_SIZE = 32
_NAME = "overhead"
_FRACTIONS = {"train": 0.8, "val": 0.1, "test": 0.1}


@dataclass(frozen=True)
class Job:
    """The job of a stage: a folder of classes, the data folder, and the number of epochs."""

    root: str
    data: str
    epochs: int

    @property
    def recipe(self) -> Recipe:
        """The default recipe with the given number of epochs."""
        return Recipe(epochs=self.epochs)

    def split(self, name: str) -> LanceSplit:
        """The split that ``prepare`` created."""
        return LanceSplit(os.path.join(self.data, "lance", f"{_NAME}_{name}.lance"))


def main(name: str, root: str, data: str, epochs: str) -> None:
    """Run the stage, without the results of earlier trainings."""
    speed_up_process()
    for left in ("cache", "checkpoints", "models"):
        shutil.rmtree(os.path.join(data, left), ignore_errors=True)
    facts = STAGES[name](Job(root, data, int(epochs)))
    print("\n" + json.dumps(facts | {"peak": own_peak()}))


def _prepare(job: Job) -> Facts:
    return {"seconds": _materialize(job, "raw_images", "lance_train", "lance_val", "lance_test")}


def _bare(job: Job) -> Facts:
    train = job.split("train")
    durations, losses = train_bare(train, job.split("val"), job.recipe, IMAGE_SIZE)
    parts = {"epochs": sum(durations), "loss": losses[-1]}
    return {"images": len(train) * len(durations), "seconds": sum(durations), "parts": parts}


def _kept(job: Job) -> Facts:
    """Keep freed memory, as our loop does; this saves time instead of costing it."""
    with keep_freed_memory():
        return _bare(job)


def _loop(job: Job) -> Facts:
    return _fitted(job, None)


def _saved(job: Job) -> Facts:
    """Train with a checkpoint at each epoch, then measure the cost of the last checkpoint on an idle machine."""
    folder, states = Path(job.data, "checkpoints", _NAME), []
    with Checkpoints.begun(folder, {}, on_saved=states.append) as checkpoints:
        facts = _fitted(job, checkpoints)
        began = time.perf_counter()
        copy = Snapshot().of(states[-1])
        copied = time.perf_counter()
        checkpoints.save(copy)
        checkpoints.wait()
        parts = {"snapshot": copied - began, "write": time.perf_counter() - copied}
    parts["checkpoint"] = sum(file.stat().st_size for file in folder.iterdir())
    return facts | {"parts": facts["parts"] | parts}


def _asset(job: Job) -> Facts:
    """Run the asset itself; a clock around the training within it separates the two."""
    found: list[Facts] = []
    original = fit.fit_network

    def timed(inputs: TrainingInputs, *settings: Any, **more: Any) -> tuple[Trained, ModelCard]:
        trained, card = original(inputs, *settings, **more)
        found.append(_facts(trained.history, len(inputs.train), time.time()))
        return trained, card

    with patch.object(fit, "fit_network", timed):
        step = _materialize(job, "resnet34")
    (facts,) = found
    return facts | {"parts": facts["parts"] | {"step": step}}


STAGES: dict[str, Callable[[Job], Facts]] = {
    "prepare": _prepare,
    "bare": _bare,
    "kept": _kept,
    "loop": _loop,
    "saved": _saved,
    "asset": _asset,
}


def _fitted(job: Job, checkpoints: Checkpoints | None) -> Facts:
    inputs = TrainingInputs(job.split("train"), job.split("val"), job.recipe, IMAGE_SIZE)
    cache = CachePlace(os.path.join(job.data, "cache"))
    trained, _ = fit.fit_network(inputs, choose_device("cpu"), cache=cache, checkpoints=checkpoints)
    return _facts(trained.history, len(inputs.train), time.time())


def _facts(history: list[Epoch], images: int, ended: float) -> Facts:
    """The facts of a training that has just ended; time before its first epoch does not count."""
    began = history[0].ended - history[0].duration
    epochs = sum(epoch.duration for epoch in history)
    waiting = sum(epoch.duration * epoch.data_wait for epoch in history)
    parts = {"epochs": epochs, "data_wait": waiting / epochs, "loss": history[-1].val_loss}
    return {"images": images * len(history), "seconds": ended - began, "parts": parts}


def _materialize(job: Job, *names: str) -> float:
    """Materialize these assets in this process, like a real run; returns the seconds from first to last step."""
    os.environ |= {"LANCE_PIPELINE_DATA": job.data, "LANCE_PIPELINE_DEVICE": "cpu", "MLFLOW_DISABLE_TELEMETRY": "true"}
    settings = {"source": {"folder": job.root}, "splits": {"fractions": _FRACTIONS}, "image_size": IMAGE_SIZE}
    attributes = ImageClassifierAttributes.model_validate(settings | {"recipe": {"epochs": job.epochs}})
    dataset = Dataset(_NAME, attributes, Path(job.root))
    assets = [build_raw_images(dataset), build_lance_splits(dataset), build_model(dataset)]
    resources = default_resources()
    # Create the database first, as it exists in all runs but the first.
    resources["mlflow"].client()
    with dg.DagsterInstance.from_config(make_instance(job.data)) as instance:
        selection = [dataset.key(name) for name in names]
        result = dg.materialize(assets, selection=selection, instance=instance, resources=resources)
        moments = moments_of(instance, result.run_id)
    return last(moments, "STEP_SUCCESS") - first(moments, "STEP_START")


if __name__ == "__main__":
    main(*sys.argv[1:])
