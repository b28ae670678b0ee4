"""Trains once, in a separate process: ``python -m benchmarks.training.child ROOT OUT RECIPE [DEVICE]``.

ROOT is a folder of splits, OUT the output folder, RECIPE JSON. The last line printed has the measurements as JSON.
"""

import json
import os
import sys
import time

from benchmarks.measure import own_peak
from benchmarks.training.course import IMAGE_SIZE
from lance_pipeline.images import CachePlace, LanceSplit, ingest_split
from lance_pipeline.process_settings import speed_up_process
from lance_pipeline.training.callbacks import TrainingCallbacks
from lance_pipeline.training.device import choose_device
from lance_pipeline.training.fit import fit_network
from lance_pipeline.training.history import Epoch
from lance_pipeline.training.inputs import TrainingInputs
from lance_pipeline.training.recipe import Recipe


def main(root: str, out: str, recipe: str, device: str = "cpu") -> None:
    """Ingest, which is not measured, then train."""
    speed_up_process()
    train, val = (
        LanceSplit(ingest_split(root, split, os.path.join(out, f"{split}.lance")).uri) for split in ("train", "val")
    )
    ends: list[float] = []
    accuracies: list[float] = []

    def on_epoch(epoch: Epoch) -> None:
        ends.append(time.perf_counter() - began)
        accuracies.append(epoch.val_accuracy)

    began = time.perf_counter()
    fit_network(
        TrainingInputs(train, val, Recipe.model_validate_json(recipe), IMAGE_SIZE),
        choose_device(device),
        cache=CachePlace(os.path.join(out, "cache")),
        callbacks=TrainingCallbacks(on_epoch=on_epoch),
    )
    seconds = time.perf_counter() - began
    facts = {"images": len(train), "seconds": seconds, "peak": own_peak(), "ends": ends, "accuracies": accuracies}
    print("\n" + json.dumps(facts))


if __name__ == "__main__":
    main(*sys.argv[1:])
