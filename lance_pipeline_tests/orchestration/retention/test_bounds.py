"""Disk usage after many trainings and increments."""

import os
from datetime import timedelta
from pathlib import Path

import lance
import numpy as np
import pytest

from lance_pipeline.images import ingest_split
from lance_pipeline.ingest.maintenance import tidy
from lance_pipeline.storage.usage import DiskUsage
from lance_pipeline_tests.image_folders import class_image, write_image_folder
from lance_pipeline_tests.orchestration.retention.conftest import Project

TRAININGS, INCREMENTS = 15, 200
KEPT = 3
MB = 1_000_000
# The weights of a ResNet-34, which have two hard links.
MODEL = 86 * MB
# A training's events, logs and records, and its share of MLflow's and Dagster's databases.
RUN = 1 * MB
# Both databases when empty, plus space that deletions free only inside them.
DATABASES = 15 * MB


@pytest.mark.timeout(1800)
def test_many_trainings_leave_as_much_as_those_that_are_kept(project: Project):
    project.attributes["maintenance"] = {"keep": {"models": KEPT, "days": 0}, "keep_days": 0}
    for number in range(TRAININGS):
        project.train(*(["metrics_val", "metrics_test"] if number % 5 == 4 else []))
    assert project.materialize("maintenance").success
    assert len(project.models()) == len(project.records()) == KEPT
    assert len(project.events()) <= KEPT + 3
    assert not list((project.data / "checkpoints").rglob("checkpoint.pt"))
    assert DiskUsage().of(project.data) <= KEPT * (MODEL + RUN) + DATABASES
    predictions = lance.dataset(project.data / "lance" / "tiny_test_predictions.lance")
    assert len(predictions.versions()) <= KEPT + 1


def test_two_hundred_increments_leave_as_much_as_their_images(tmp_path: Path):
    root, uri = tmp_path / "images", str(tmp_path / "train.lance")
    write_image_folder(root, {"train": {"cat": 40, "dog": 40}})
    rng = np.random.default_rng(0)
    for number in range(INCREMENTS):
        (root / "train" / "cat" / f"{number % 40:03d}.png").unlink(missing_ok=True)
        class_image(0, rng).save(root / "train" / "cat" / f"new{number}.png")
        ingest_split(str(root), "train", uri)
        if number % 20 == 19:
            tidy(uri, timedelta(0), str(tmp_path / "train_seen"))
    rows = lance.dataset(uri).to_table(["image"])["image"]
    images = sum(len(image.as_py()) for image in rows)
    assert len(rows) == 40 + INCREMENTS
    assert len(lance.dataset(uri).versions()) == 1
    # Other columns, file overhead, and the memory of seen files: about 1 kB for each image.
    assert _bytes_below(tmp_path) - _bytes_below(root) <= images + len(rows) * 1_000 + 100_000


def _bytes_below(folder: Path) -> int:
    return sum(os.path.getsize(path) for path in folder.rglob("*") if path.is_file())
