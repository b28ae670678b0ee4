"""The pipeline on the GPU: from image folders to metrics, and how well the loader feeds it."""

import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.corpus import JPEG, PNG, Kind, write_splits
from benchmarks.gpu.bare import own_step, synchronize, synthetic_batch
from benchmarks.gpu.command import SMALL, materialize, small_project
from benchmarks.gpu.feeding import FORKING, feed, load, loader_of
from benchmarks.gpu.part import Figures, Job, printed_by
from benchmarks.gpu.sizes import SOURCES, Cell
from lance_pipeline.images import CachePlace, LanceSplit, ingest_split
from lance_pipeline.process_settings import speed_up_process
from lance_pipeline.training.device import choose_device, reproducible
from lance_pipeline.training.fit import fit_network
from lance_pipeline.training.inputs import TrainingInputs
from lance_pipeline.training.recipe import Recipe

_DATASET = "photos"
_DEFS = """\
type: lance_pipeline.ImageClassifier
attributes:
  source: {{folder: {folder}}}
  image_size: {size}
  recipe: {{epochs: {epochs}, batch_size: {batch}}}
"""
_SIZE = 32
_FEEDING_LIMIT_SECONDS = 60


def measure(job: Job, figures: Figures) -> None:
    """All figures, the most important first."""
    speed_up_process()
    _Pipeline(job, figures).measure()


class _Pipeline:
    """The images, their datasets, and the measurements on both."""

    def __init__(self, job: Job, figures: Figures) -> None:
        self._job, self._figures, self._sizes = job, figures, job.sizes
        self._device = choose_device(job.device)
        self._cells = {
            "png": Cell(_SIZE, Recipe().stem, job.sizes.batch),
            "jpeg": Cell(job.sizes.photo, Recipe().stem, job.sizes.batch),
        }

    def measure(self) -> None:
        figures = self._figures
        with figures.attempt("images of 32 px"):
            figures.put("png", self._written(PNG, self._sizes.png))
        with figures.attempt("from folder to metrics"):
            figures.put("run", self._run())
        with figures.attempt("our step"):
            figures.put("own_step", {kind: self._own_rate(cell) for kind, cell in self._cells.items()})
        with figures.attempt("photos"):
            figures.put("jpeg", self._written(JPEG, self._sizes.jpeg))
        with figures.attempt("ingest"):
            figures.put("ingest", {kind: self._ingested(kind) for kind in self._cells})
        with figures.attempt("training on photos"):
            figures.put("photo_training", self._photo_training())
        self._measure_loaders()

    def _measure_loaders(self) -> None:
        loading: dict[str, Any] = {}
        for kind, cell in self._cells.items():
            for way in ("cached", "streamed"):
                with self._figures.attempt(f"loader alone, {kind}, {way}"):
                    loader = loader_of(self._uri(kind), cell, way, self._device, self._cache)
                    loading[f"{kind} {way}"] = load(loader, self._sizes.loading)
                    self._figures.put("loader", loading)
        threads: dict[str, dict[str, float]] = {}
        for kind, way in (("jpeg", "streamed"), ("png", "streamed"), ("png", "cached")):
            for count in self._sizes.threads:
                with self._figures.attempt(f"loader with {count} threads, {kind}, {way}"):
                    loader = loader_of(self._uri(kind), self._cells[kind], way, self._device, self._cache, count)
                    threads.setdefault(f"{kind} {way}", {})[str(count)] = load(loader, self._sizes.loading)["rate"]
                    self._figures.put("threads", threads)
        feeding: dict[str, dict[str, float]] = {}
        for kind in self._sizes.fed:
            for source in SOURCES:
                with self._figures.attempt(f"feeding a bare step, {kind}, {source}"):
                    feeding.setdefault(kind, {})[source] = self._fed(kind, source)
                    self._figures.put("feeding", feeding)

    @property
    def _cache(self) -> CachePlace:
        return CachePlace(os.path.join(self._job.work, "cache"))

    def _root(self, kind: str) -> str:
        return os.path.join(self._job.work, kind)

    def _uri(self, kind: str, split: str = "train") -> str:
        return os.path.join(self._job.work, "lance", f"{kind}_{split}.lance")

    def _written(self, kind: Kind, counts: Mapping[str, int]) -> dict[str, float]:
        began = time.monotonic()
        write_splits(self._root(kind.name), kind, counts)
        return {"images": sum(counts.values()), "seconds": time.monotonic() - began}

    def _run(self) -> dict[str, Any]:
        """Run the whole graph of a dataset from the shell, with the default recipe except for its length."""
        shell = small_project(Path(self._job.work, "small"))
        epochs = self._job.epochs or self._sizes.epochs
        defs = shell.folder / "small" / "defs" / _DATASET / "defs.yaml"
        defs.parent.mkdir()
        text = _DEFS.format(folder=self._root("png"), size=_SIZE, epochs=epochs, batch=self._sizes.batch)
        defs.write_text(text)
        done = materialize(shell, SMALL, _DATASET)
        return {
            "images": self._sizes.png["train"],
            "seconds": done.seconds,
            "steps": done.steps,
            "epochs": done.epochs,
            "device": done.metadata["device"],
        }

    def _ingested(self, kind: str) -> dict[str, float]:
        """Ingest all splits again, into the datasets for the other measurements; returns the seconds."""
        counts = {"png": self._sizes.png, "jpeg": self._sizes.jpeg}[kind]
        began = time.monotonic()
        for split in counts:
            ingest_split(self._root(kind), split, self._uri(kind, split))
        return {"images": sum(counts.values()), "seconds": time.monotonic() - began}

    def _fed(self, kind: str, source: str) -> float:
        """Images per second of a bare step; sources with forked workers run in a separate process, which may hang."""
        root, uri, cell = self._root(kind), self._uri(kind), self._cells[kind]
        if source not in FORKING:
            return feed(source, root, uri, cell, self._job)
        command = [sys.executable, "-m", "benchmarks.gpu.feeding", source, root, uri, json.dumps(asdict(cell))]
        return float(printed_by([*command, self._job.json()], _FEEDING_LIMIT_SECONDS))

    def _photo_training(self) -> dict[str, Any]:
        """Train with the function and the loaders of the asset."""
        train, val = (LanceSplit(self._uri("jpeg", split)) for split in ("train", "val"))
        recipe = Recipe(epochs=self._sizes.photo_epochs, batch_size=self._sizes.batch)
        inputs = TrainingInputs(train, val, recipe, self._sizes.photo)
        trained, _ = fit_network(inputs, self._device, cache=self._cache)
        return {"images": len(train), "epochs": [epoch.figures() for epoch in trained.history]}

    def _own_rate(self, cell: Cell) -> float:
        """Images per second of our step on one batch on the device."""
        batch = synthetic_batch(cell, self._device)
        with reproducible():
            step = own_step(cell, self._device)
            for _ in range(12 if torch.cuda.is_available() else 1):
                step(*batch)
            synchronize()
            began, count = time.perf_counter(), 0
            while time.perf_counter() - began < self._sizes.loading:
                step(*batch)
                count += 1
            synchronize()
            return count * cell.batch / (time.perf_counter() - began)
