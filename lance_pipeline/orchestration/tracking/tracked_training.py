"""Training on two versions of splits, resumed from its checkpoint if there is one, and tracked in MLflow."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from lance_pipeline.display import printable
from lance_pipeline.errors import Stopped
from lance_pipeline.orchestration.lance_store import LanceStore
from lance_pipeline.orchestration.records import Split
from lance_pipeline.orchestration.runtime.resumption import has_checkpoint
from lance_pipeline.orchestration.tracking.mlflow_tracking import TRAINING_TAG, MlflowTracking, place_tag
from lance_pipeline.orchestration.tracking.run_note import NOTE_TAG, run_note
from lance_pipeline.orchestration.tracking.tracked_run import TrackedRun
from lance_pipeline.orchestration.tracking.training_report import TrainingReport
from lance_pipeline.orchestration.ui.address import MLFLOW_PATH, to_open
from lance_pipeline.training.recipe import Recipe

if TYPE_CHECKING:
    from lance_pipeline.training.checkpoint import Checkpoints
    from lance_pipeline.training.device import Device
    from lance_pipeline.training.history import Epoch
    from lance_pipeline.training.inputs import TrainingInputs
    from lance_pipeline.training.loop import Trained
    from lance_pipeline.training.start import Start
    from lance_pipeline.training.weights import ModelCard


@dataclass(frozen=True)
class Plan:
    """What to train, and for which dataset.

    Attributes:
        dataset: name of the dataset and of its MLflow experiment.
        train: the split to learn from.
        val: the split that selects the best epoch.
        network: torchvision's name of the network.
        recipe: the recipe as given.
        image_size: in pixels.
        tags: additional tags of the MLflow run, besides those of every training.
        trial: whether the training belongs to no asset.
    """

    dataset: str
    train: Split
    val: Split
    network: str
    recipe: Recipe
    image_size: int
    tags: Mapping[str, str]
    trial: bool = False

    def start(self, device: "Device", downloads: str, folder: Path, *, fresh: bool = False) -> "Start":
        """The recipe and the weights to begin with.

        Args:
            device: the device that trains.
            downloads: the folder of downloaded weights.
            folder: the folder of checkpoints: an interrupted training resumes with its initial weights.
            fresh: whether to ignore checkpoints.
        """
        from lance_pipeline.training.start import settled_start

        return settled_start(
            self.inputs,
            device.torch_device.type,
            downloads,
            resumable=lambda recipe: not fresh and has_checkpoint(folder, self.identity(recipe)),
        )

    def identity(self, recipe: Recipe) -> dict[str, Any]:
        """Everything that determines the result of training with a fully resolved recipe."""
        return replace(self.inputs, recipe=recipe).identity()

    @cached_property
    def inputs(self) -> "TrainingInputs":
        """What determines the result, with splits that are opened and checked against their fingerprints once."""
        from lance_pipeline.images import LanceSplit
        from lance_pipeline.training.inputs import TrainingInputs

        train, val = (LanceSplit(**split.data.model_dump()) for split in (self.train, self.val))
        return TrainingInputs(train, val, self.recipe, self.image_size, self.network)


@dataclass(frozen=True)
class Surroundings:
    """Where a training runs, and what it reports to.

    Attributes:
        run_id: id of the Dagster run.
        log: log of the step.
        observe: called with the figures of each epoch.
        stop: polled after each batch; a returned reason ends the training once its state is saved.
        folder: the folder of checkpoints, which this process has locked.
        pin: maps the training's id to the tag that protects the Lance versions it reads.
        mlflow: where the training is tracked.
        store: where downloads and decoded images are stored.
    """

    run_id: str
    log: dg.DagsterLogManager
    observe: Callable[[Mapping[str, Any]], None]
    stop: Callable[[], str | None]
    folder: Path
    pin: Callable[[str], str]
    mlflow: MlflowTracking
    store: LanceStore


@dataclass(frozen=True)
class Finished:
    """The results of a training.

    Attributes:
        run: the MLflow run, which has all epochs.
        trained: the weights and the history.
        card: the card of the weights.
        recipe: the fully resolved recipe of the training.
        checkpoints: the checkpoints, which still exist.
    """

    run: TrackedRun
    trained: "Trained"
    card: "ModelCard"
    recipe: Recipe
    checkpoints: "Checkpoints"


@contextmanager
def tracked_training(
    plan: Plan,
    start: "Start",
    device: "Device",
    surroundings: Surroundings,
    choose: "Callable[[dict[str, Any]], Checkpoints]",
    enough: "Callable[[list[Epoch]], bool]" = lambda history: False,
) -> Iterator[Finished]:
    """Train, and yield the results while the MLflow run is still open for more.

    Args:
        plan: what to train.
        start: the recipe and the weights to begin with.
        device: the device that trains.
        surroundings: where the training runs.
        choose: maps the training's identity to the checkpoints to resume from or to start.
        enough: polled before each epoch; True ends the training.

    Raises:
        InputError: a problem that the user can fix keeps the training from finishing.
        Stopped: the training was asked to stop, and its state is saved.
    """
    from lance_pipeline.images import CachePlace
    from lance_pipeline.ingest.maintenance import keep_version
    from lance_pipeline.training.callbacks import TrainingCallbacks
    from lance_pipeline.training.fit import fit_network

    log, store = surroundings.log, surroundings.store
    records: dict[str, Split] = {"train": plan.train, "val": plan.val}
    recipe = start.recipe
    inputs = replace(plan.inputs, recipe=recipe)
    (log.warning if start.second_best else log.info)(printable(f"weights: {start.reason}"))
    checkpoints = choose(inputs.identity())
    # This process has locked the folder, so any other run that still counts as training there has ended.
    place = place_tag(surroundings.folder)
    # From here on no clean-up can remove the versions that this training reads.
    for one in records.values():
        keep_version(one.data.uri, one.data.version, surroundings.pin(checkpoints.training_id))

    def describe(run: TrackedRun) -> None:
        log.info(printable(f"MLflow run {run.name} ({run.run_id}): {to_open(run.url)}"))
        run.kill_others(place)
        linked = surroundings.mlflow.ui == MLFLOW_PATH
        note = run_note(
            plan.dataset, records, plan.network, plan.recipe, plan.image_size, surroundings.run_id, linked=linked
        )
        tags = _tags(surroundings.run_id, device, checkpoints.environments[-1]["code"], records)
        run.log_tags(tags | place | {NOTE_TAG: note} | dict(plan.tags))
        run.log_params(settings(recipe, inputs.card()))
        run.log_dataset(f"{plan.dataset}_train", "training", plan.train)
        run.log_dataset(f"{plan.dataset}_val", "validation", plan.val)

    tags = {TRAINING_TAG: checkpoints.training_id, **place}
    with surroundings.mlflow.training_run(plan.dataset, tags, describe, trial=plan.trial) as opening:
        with TrainingReport(log, surroundings.observe, opening, recipe.best_by) as report, checkpoints:
            checkpoints.on_saved = report.on_saved
            # A slow server may have taken minutes.
            if reason := surroundings.stop():
                raise Stopped(reason)

            trained, card = fit_network(
                inputs,
                device,
                downloads=store.downloads_folder,
                cache=CachePlace(str(store.cache_folder), store.cache_budget),
                checkpoints=checkpoints,
                callbacks=TrainingCallbacks(
                    report.on_epoch,
                    report.on_step,
                    lambda line: log.info(printable(line)),
                    surroundings.stop,
                    enough,
                ),
            )
            run = report.settled(trained.history, surroundings.stop)
        yield Finished(run, trained, card, recipe, checkpoints)
        with surroundings.mlflow.clear_errors():
            run.name_result("val", trained.best.val_accuracy)


def _tags(run_id: str, device: "Device", code: dict[str, Any], splits: Mapping[str, Split]) -> dict[str, str]:
    tags = {
        "dagster.run_id": run_id,
        "device": device.name,
        "precision": device.precision,
        "lance_pipeline.version": code["version"],
    }
    if code["commit"] is not None:
        # A tag of MLflow's own, which its UI shows as the source.
        tags |= {"mlflow.source.git.commit": code["commit"], "lance_pipeline.changed": str(code["changed"]).lower()}
    for split, record in splits.items():
        tags |= {
            f"lance.{split}.uri": record.data.uri,
            f"lance.{split}.version": str(record.data.version),
            f"lance.{split}.fingerprint": record.data.fingerprint,
        }
    return tags


def settings(recipe: Recipe, card: "ModelCard") -> dict[str, Any]:
    """The settings of a training, without those that depend on its device, which may change when it resumes."""
    rounded = {name: [round(value, 4) for value in values] for name, values in (("mean", card.mean), ("std", card.std))}
    chosen = recipe.model_dump(mode="json", exclude_none=True, exclude={"precision", "step"})
    return {"model": card.architecture} | chosen | rounded | {"image_size": card.image_size}
