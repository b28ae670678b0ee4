"""The work of the dataset ``digits`` in one process, without Dagster and MLflow: the functions that its assets call.

``python -m benchmarks.training.plain_run DATA`` writes to the folder DATA, and prints when each part was done, as JSON.
"""

import json
import os
import sys
import time
from pathlib import Path

import yaml

from benchmarks.measure import REPO
from lance_pipeline.evaluation.metrics import classification_metrics
from lance_pipeline.evaluation.prediction import evaluation_loader, predict, write_predictions
from lance_pipeline.images import CachePlace, LanceSplit
from lance_pipeline.ingest.ingestion import ingest_split
from lance_pipeline.process_settings import speed_up_process
from lance_pipeline.sources.listing import list_split_folders
from lance_pipeline.sources.sample import make_sample
from lance_pipeline.training.device import Device, choose_device
from lance_pipeline.training.fit import fit_network
from lance_pipeline.training.history import Epoch
from lance_pipeline.training.inputs import TrainingInputs
from lance_pipeline.training.recipe import Recipe
from lance_pipeline.training.weights import load_model, save_model

_SPLITS = ("train", "val", "test")


def main(data: str) -> None:
    """Ingest three splits, train with the dataset's recipe, and evaluate on two of them."""
    speed_up_process()
    with open(os.path.join(REPO, "lance_pipeline", "defs", "digits", "defs.yaml")) as file:
        attributes = yaml.safe_load(file)["attributes"]
    at = {"start": time.time()}
    _ingest(data)
    at["ingest"] = time.time()
    device = choose_device("cpu")
    history = _train(data, Recipe.model_validate(attributes["recipe"]), attributes["image_size"], device)
    at["training"] = time.time()
    for split in ("val", "test"):
        _evaluate(data, split, device)
    at["evaluation"] = time.time()
    epochs = sum(epoch.duration for epoch in history)
    print("\n" + json.dumps({"at": at, "epochs": epochs, "best": max(epoch.val_accuracy for epoch in history)}))


def _uri(data: str, split: str) -> str:
    return os.path.join(data, "lance", f"digits_{split}.lance")


def _ingest(data: str) -> None:
    root = os.path.join(data, "raw", "digits")
    make_sample("digits", root)
    listing = list_split_folders(root, {split: split for split in _SPLITS})
    for split in _SPLITS:
        files = listing.files.filter([one == split for one in listing.files["split"].to_pylist()])
        ingest_split(root, split, _uri(data, split), files=files, classes=listing.classes)


def _train(data: str, recipe: Recipe, image_size: int, device: Device) -> list[Epoch]:
    train, val = (LanceSplit(_uri(data, split)) for split in ("train", "val"))
    cache = CachePlace(os.path.join(data, "cache"))
    trained, card = fit_network(TrainingInputs(train, val, recipe, image_size), device, cache=cache)
    save_model(Path(data, "model"), trained.state, card)
    return trained.history


def _evaluate(data: str, split: str, device: Device) -> None:
    network, card = load_model(Path(data, "model"))
    loader = evaluation_loader(LanceSplit(_uri(data, split)), card, device)
    predictions = predict(network, loader, device)
    metrics = classification_metrics(predictions, card.classes)
    paths = loader.split.to_table(["path"])["path"].to_pylist()
    uri = os.path.join(data, "lance", f"digits_{split}_predictions.lance")
    write_predictions(uri, predictions, paths, card.classes, metrics.scalars())


if __name__ == "__main__":
    main(*sys.argv[1:])
