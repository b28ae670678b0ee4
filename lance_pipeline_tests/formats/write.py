"""Write a small set with every kind of file that is written and read back.

Run by hand: ``python -m lance_pipeline_tests.formats.write <new folder>``. The sets beside this file are what earlier
versions left on disk. They are never rewritten: a new format gets a new folder. All addresses are relative to the
folder, so that a set contains no paths of a machine.
"""

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lance_pipeline.errors import InputError, Stopped
from lance_pipeline.evaluation.prediction import write_predictions
from lance_pipeline.images import ImageLoader, LanceSplit, Limits, ingest_split
from lance_pipeline.orchestration.assets.lance_splits import split_record
from lance_pipeline.orchestration.records import LanceVersion, Metrics, Model, RawImages, Record, Split
from lance_pipeline.orchestration.retention.models import Removal
from lance_pipeline.orchestration.runtime.resumption import checkpoints_to_use
from lance_pipeline.orchestration.tracking.training_log import training_record
from lance_pipeline.orchestration.trials.record import Trial
from lance_pipeline.sources.listing import list_split_folders, store_listing
from lance_pipeline.storage import uris
from lance_pipeline.training.callbacks import TrainingCallbacks
from lance_pipeline.training.checkpoint import Checkpoints
from lance_pipeline.training.device import choose_device
from lance_pipeline.training.history import Epoch
from lance_pipeline.training.inputs import TrainingInputs
from lance_pipeline.training.loop import Trained, train
from lance_pipeline.training.recipe import Recipe
from lance_pipeline.training.weights import ModelCard, save_model
from lance_pipeline_tests.evaluation.chances import predictions_of
from lance_pipeline_tests.image_folders import write_image_folder

SIZE, CLASSES, FOLDERS = 8, ["cat", "dog"], {"train": "train", "val": "val"}
RECIPE = Recipe(epochs=2, batch_size=2, learning_rate=0.05, weights="none", crop_padding=1, averaging=0.5)
CARD = {
    "stem": "small",
    "classes": CLASSES,
    "image_size": SIZE,
    "fit": "crop",
    "mean": (0.5, 0.25, 0.125),
    "std": (0.25, 0.5, 0.75),
    "transparency": "black",
}
ENVIRONMENT: dict[str, Any] = {"device": "cpu", "precision": "fp32", "threads": 1, "packages": {"torch": "2"}}
# Long ago, because an ingest does not trust the time of a file that was just written.
TIME = 1_600_000_000
RUN, WHERE = "0b8d3b5c-0000-4000-8000-000000000001", Path("checkpoints/tiny")


def tiny_network() -> nn.Module:
    """A network that takes images like the trained one, but has only a few bytes of weights."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2))


def tiny_training(splits: dict[str, LanceSplit], checkpoints: Checkpoints, **callbacks: Any) -> Trained:
    """Train the tiny network, resuming from the checkpoints."""
    train_loader, val_loader = (
        ImageLoader(
            splits[name].uri,
            version=splits[name].version,
            batch_size=RECIPE.images_per_batch,
            image_size=SIZE,
            training=name == "train",
            normalize=((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
            cache=None,
        )
        for name in ("train", "val")
    )
    with checkpoints:
        return train(
            tiny_network(),
            train_loader,
            val_loader,
            RECIPE,
            choose_device("cpu"),
            checkpoints=checkpoints,
            callbacks=TrainingCallbacks(**callbacks),
        )


def write_images() -> None:
    """Write four images for each split, and one file per split that is not an image."""
    write_image_folder("images", {split: {"cat": 2, "dog": 2} for split in FOLDERS}, size=SIZE)
    for split in FOLDERS:
        Path("images", split, "dog", "bad.png").write_bytes(b"not an image")
    set_times()


def set_times() -> None:
    """Set the time of the images in the current folder, which neither git nor a copy preserves."""
    for path in Path("images").rglob("*.png"):
        os.utime(path, (TIME, TIME))


def write_tables() -> tuple[RawImages, dict[str, Split]]:
    """Write the listing, a complete train split, and a val split interrupted once before its commit."""
    listing = list_split_folders("images", FOLDERS)
    version, fingerprint = store_listing(listing, "lance/tiny_listing.lance")
    listed = LanceVersion(uri="lance/tiny_listing.lance", version=version, fingerprint=fingerprint)
    raw = RawImages(root="images", folders=FOLDERS, listing=listed, classes=listing.classes, counts=listing.counts())
    splits = {split: _ingested(split, f"lance/tiny_{split}.lance") for split in FOLDERS}
    try:
        ingest_split(
            "images", "val", "lance/waiting.lance", limits=Limits(on_bad_image="fail", max_rejected_fraction=1)
        )
    except InputError:
        return raw, splits
    raise AssertionError("it was not interrupted")


def _ingested(split: str, uri: str) -> Split:
    report = ingest_split("images", split, uri, limits=Limits(max_rejected_fraction=1), transparency="grey")
    return split_record(report)


def write_predicted(split: Split) -> LanceVersion:
    """Write the predictions for a split."""
    found = predictions_of([0, 1, 0, 1], [[0.5, 0.5]] * 4)
    paths = LanceSplit(split.data.uri).paths()
    written = write_predictions("lance/tiny_val_predictions.lance", found, paths, CLASSES, {"fingerprint": "f"})
    return LanceVersion(uri="lance/tiny_val_predictions.lance", version=written.version, fingerprint="f")


def write_checkpoint(splits: dict[str, Split]) -> tuple[Checkpoints, list[Epoch]]:
    """Write the checkpoint of a training that was stopped after the first of two epochs."""
    opened = {name: LanceSplit(**splits[name].data.model_dump()) for name in FOLDERS}
    identity = TrainingInputs(opened["train"], opened["val"], RECIPE, SIZE).identity()
    checkpoints = checkpoints_to_use(
        lambda line: None, lambda: iter(()), WHERE, identity, choose_device("cpu"), fresh=False, every=600
    )
    checkpoints.environments = [ENVIRONMENT]
    history: list[Epoch] = []
    try:
        tiny_training(opened, checkpoints, on_epoch=history.append, stop=lambda: "enough" if history else None)
    except Stopped:
        return checkpoints, history
    raise AssertionError("it was not stopped")


def keep_addresses_relative(patch: pytest.MonkeyPatch) -> None:
    """Keep relative addresses as they are, so that no path of a machine is in a set, and a copy of it is complete."""
    patch.setattr(uris, "_absolute", os.path.normpath)


def write_set() -> None:
    """Write the whole set into the current folder."""
    with pytest.MonkeyPatch.context() as patch:
        keep_addresses_relative(patch)
        _write_set()


def _write_set() -> None:
    write_images()
    raw, splits = write_tables()
    predictions = write_predicted(splits["val"])
    checkpoints, history = write_checkpoint(splits)
    (checkpoints.folder / "previous.pt").unlink()
    sha256 = save_model(Path("model"), {"fc.weight": torch.eye(2)}, ModelCard.model_validate(CARD))
    model = Model(
        mlflow_run_id="c0ffee",
        folder="model",
        sha256=sha256,
        classes=CLASSES,
        image_size=SIZE,
        recipe=RECIPE,
        train=splits["train"].data,
        val=splits["val"].data,
        best_epoch=1,
        val_accuracy=0.75,
        train_accuracy=0.5,
        val_accuracies=[0.75, 0.25],
        val_counts={"cat": 2, "dog": 2},
    )
    metrics = Metrics(
        model_sha256=sha256,
        mlflow_run_id="c0ffee",
        split=splits["val"].data,
        predictions=predictions,
        images=4,
        commonest_class=0.5,
        accuracy=0.75,
        top5_accuracy=1.0,
        macro_f1=0.625,
        loss=0.375,
    )
    assets = {"raw_images": raw, "lance_train": splits["train"], "lance_val": splits["val"]}
    for asset, record in (assets | {"resnet34": model, "metrics_val": metrics}).items():
        _write(f"records/tiny/{asset}/{RUN}.json", record)
    _write(f"records/tiny/resnet34/{RUN}.removing", Removal(run_id=RUN, training_id="t", model=model))
    _write("mlflow/training.json", training_record(checkpoints, choose_device("cpu"), history, sha256))
    trial = Trial(
        identity="5eed",
        recipe=RECIPE,
        image_size=SIZE,
        train=model.train,
        val=model.val,
        val_accuracy=0.75,
        epochs=2,
        seconds=1.5,
        stopped_early=True,
    )
    _write("mlflow/trial.txt", trial)


def _write(path: str, record: Record) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(record.to_json())


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir()
    os.chdir(folder)
    write_set()
