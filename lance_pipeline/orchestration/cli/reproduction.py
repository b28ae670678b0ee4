"""Repeat a training from its MLflow record and compare the results."""

import tempfile
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lance_pipeline.display import printable
from lance_pipeline.errors import DamagedError, InputError
from lance_pipeline.orchestration.records import Training
from lance_pipeline.orchestration.resources import default_resources
from lance_pipeline.orchestration.tracking.tracked_run import TrackedRun
from lance_pipeline.orchestration.tracking.training_log import TRAINING_FILE

if TYPE_CHECKING:
    import torch

    from lance_pipeline.orchestration.lance_store import LanceStore
    from lance_pipeline.orchestration.runtime.gpu import GpuResource
    from lance_pipeline.training.device import Device
    from lance_pipeline.training.history import Epoch
    from lance_pipeline.training.loop import Trained

    Weights = dict[str, torch.Tensor]


def reproduce(run_id: str) -> bool:
    """Repeat the training of an MLflow run and print the differences; returns whether all is equal, bit for bit.

    It writes to no asset and to no MLflow run. Differences in data, code and environment are printed first; torch uses
    as many threads as in the recorded training.

    Raises:
        InputError: MLflow does not know the run, the run has no record of a training, or the data it was trained on no
            longer exists.
    """
    import torch

    resources = default_resources()
    run = resources["mlflow"].existing_run(run_id)
    then, weights = training_and_weights(run)
    with _device(resources["gpu"], then, run_id) as device:
        torch.set_num_threads(then.environments[-1]["threads"])
        same = _is_reproduced(then, weights, device, resources["lance_store"])
    print(f"\n{'The same, bit for bit.' if same else 'Not the same.'}")
    if not same and then.device != "cpu":
        print("Only the CPU promises the same bits.")
    return same


def training_and_weights(run: TrackedRun) -> tuple[Training, "Weights"]:
    """The record of the training, and its weights."""
    from mlflow.exceptions import MlflowException

    with tempfile.TemporaryDirectory() as folder:
        try:
            path = Path(run.client.download_artifacts(run.run_id, TRAINING_FILE, folder))
            training = Training.from_json(path.read_bytes(), f"{TRAINING_FILE} of the MLflow run {run.run_id}")
            return training, _weights(run, training, folder)
        except (MlflowException, OSError, DamagedError) as error:
            raise InputError(
                f"the MLflow run {run.run_id} has no {TRAINING_FILE} and model that can be read: {error}. "
                "Expected the run of a finished training of this version; `python -m lance_pipeline summary <dataset>` "
                "names the latest. Where that is this one, materialize the model again: its new run has them."
            ) from error


def _weights(run: TrackedRun, training: Training, folder: str) -> "Weights":
    """The weights from MLflow, or from the model's folder where MLflow's copy is damaged or missing.

    Raises:
        DamagedError: both copies are damaged or missing.
        MlflowException: both copies are unusable; this is MLflow's error.
        OSError: both copies are unusable; this is the error of reading MLflow's copy.
    """
    from mlflow.exceptions import MlflowException

    from lance_pipeline.training.weights import read_weights

    try:
        return read_weights(run.download_model(Path(folder)), training.sha256)
    except (MlflowException, OSError, DamagedError) as damaged:
        tags = run.client.get_run(run.run_id).data.tags
        dataset = tags.get("dagster.asset_key", "").split("/")[0]
        local = default_resources()["lance_store"].model_folder(dataset, tags.get("dagster.run_id", ""))
        try:
            weights = read_weights(local, training.sha256)
        except DamagedError:
            raise damaged from None
        print(f"{damaged} Those in {local} are used.")
        return weights


def _device(gpu: "GpuResource", then: Training, run_id: str) -> "AbstractContextManager[Device]":
    """The recorded device, or the best available one, in the recorded precision if possible."""
    for devices, precision in ((then.device, then.precision), (None, then.precision)):
        try:
            gpu.pick(devices=devices, precision=precision)
        except InputError as absent:
            print(absent)
        else:
            return gpu.hold(f"MLflow run {run_id} again", devices=devices, precision=precision, on_wait=print)
    return gpu.hold(f"MLflow run {run_id} again", on_wait=print)


def _is_reproduced(then: Training, weights: "Weights", device: "Device", lance_store: "LanceStore") -> bool:
    from lance_pipeline.images import CachePlace, LanceSplit
    from lance_pipeline.training.callbacks import TrainingCallbacks
    from lance_pipeline.training.checkpoint import differences
    from lance_pipeline.training.environment import environment
    from lance_pipeline.training.fit import fit_network
    from lance_pipeline.training.inputs import TrainingInputs

    train, val = (LanceSplit(**one.model_dump()) for one in (then.train, then.val))
    inputs = TrainingInputs(train, val, then.recipe, then.image_size, then.model)
    _print_changes("data, recipe and code", differences(then.identity, inputs.identity()))
    where = {"device": then.device, "precision": then.precision}
    _print_changes("device", differences(where, {"device": device.name, "precision": device.precision}))
    _print_changes("environment", differences(then.environments[-1], environment(device)))
    for number, before in enumerate(then.environments[:-1], 1):
        _print_changes(f"before interruption {number}", differences(before, environment(device)))
    trained, _ = fit_network(
        inputs,
        device,
        downloads=lance_store.downloads_folder,
        cache=CachePlace(str(lance_store.cache_folder), lance_store.cache_budget),
        callbacks=TrainingCallbacks(
            on_epoch=lambda epoch: _print_changes(f"epoch {epoch.number}/{epoch.of}", _changes(then, epoch))
        ),
    )
    changed = [change for epoch in trained.history for change in _changes(then, epoch)]
    moved = _weights_changes(weights, trained)
    _print_changes("weights", moved)
    return not changed and not moved and len(trained.history) == len(then.history)


def _changes(then: Training, epoch: "Epoch") -> list[str]:
    """The epoch's results that differ from the record."""
    from lance_pipeline.training.checkpoint import differences

    if epoch.number > len(then.history):
        return [f"there were {len(then.history)} epochs"]
    return differences(then.history[epoch.number - 1], epoch.outcome())


def _weights_changes(kept: "Weights", trained: "Trained") -> list[str]:
    """How the weights differ from those in MLflow."""
    apart = {name: (kept[name].float() - value.float()).abs().max().item() for name, value in trained.state.items()}
    changed = {name: most for name, most in apart.items() if most}
    return [f"up to {max(changed.values()):g} apart, in {len(changed)} of {len(apart)} tensors"] if changed else []


def _print_changes(what: str, changes: list[Any]) -> None:
    print(printable(f"  {what:<22} {'; '.join(changes) or 'unchanged'}"), flush=True)
