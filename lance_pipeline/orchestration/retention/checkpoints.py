"""The checkpoints of a dataset's trainings, which are needed until the model is stored."""

from collections.abc import Iterable
from pathlib import Path

import dagster as dg

from lance_pipeline.errors import Stopped
from lance_pipeline.orchestration.retention.runs import RunHistory
from lance_pipeline.storage.removal import remove
from lance_pipeline.storage.usage import freed_by_removing


def training_ids(folder: Path) -> set[str]:
    """The ids of the trainings that can resume from a checkpoint in this folder.

    Raises:
        InputError: a checkpoint cannot be read.
    """
    from lance_pipeline.training.checkpoint import read_checkpoint

    return {found.training_id for path in folder.glob("*/") if (found := read_checkpoint(path)) is not None}


def remove_ended(folder: Path, history: RunHistory, models: Iterable[dg.AssetKey]) -> int:
    """Remove the checkpoints of trainings that have made one of the models; returns the bytes freed.

    A training removes its own checkpoint once its model is stored; this handles trainings that were killed just then.
    Nothing is removed while a training holds the lock of the folder.

    Raises:
        InputError: a checkpoint cannot be read or removed.
    """
    from lance_pipeline.training.checkpoint import exclusive, read_checkpoint

    if not any(folder.glob("*/")):
        return 0
    freed = 0
    try:
        with exclusive(folder, "maintenance", on_wait=lambda text: None, stop=lambda: "in use by a training"):
            ended = {
                str(made.metadata["training_id"].value)
                for model in models
                for event in history.materializations(model)
                if (made := event.asset_materialization) and "training_id" in made.metadata
            }
            for path in folder.glob("*/"):
                found = read_checkpoint(path)
                if found is not None and found.training_id in ended:
                    freed += freed_by_removing(path)
                    remove(path)
    except Stopped:
        return 0
    return freed
