"""What MLflow stores of a finished training: its record, environment, learning curve and model."""

import importlib.metadata
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from lance_pipeline.orchestration.records import Training
from lance_pipeline.orchestration.tracking.tracked_run import MODEL_FILES, TrackedRun
from lance_pipeline.storage.links import link_file

if TYPE_CHECKING:
    from mlflow.models import Model

    from lance_pipeline.training.checkpoint import Checkpoints
    from lance_pipeline.training.device import Device
    from lance_pipeline.training.history import Epoch

TRAINING_FILE = "training.json"
_CODE = Path(__file__).with_name("logged_model.py")
_REQUIRED = ("mlflow", "numpy", "safetensors", "torch", "torchvision")


def tracked_figures(epoch: "Epoch") -> dict[str, float]:
    """An epoch's figures for MLflow, without the time left, which is useless after the training."""
    return {name: value for name, value in epoch.figures().items() if name != "seconds_left"}


def training_record(checkpoints: "Checkpoints", device: "Device", history: list["Epoch"], sha256: str) -> Training:
    """The record of a finished training."""
    return Training(
        **checkpoints.identity,
        device=device.name,
        precision=device.precision,
        environments=checkpoints.environments,
        sha256=sha256,
        history=[epoch.outcome() for epoch in history],
    )


def log_training(run: TrackedRun, name: str, training: Training, folder: Path, best: "Epoch", curve: bytes) -> str:
    """Log the artifacts and the model; returns the address by which MLflow loads the model.

    Args:
        run: the training's run.
        name: name of the model.
        training: its record, from which ``python -m lance_pipeline reproduce`` repeats the training.
        folder: the folder with weights and card.
        best: the epoch that the weights are from.
        curve: the learning curve, a PNG.
    """
    run.log_file(json.dumps(training.environments[-1], indent=2).encode(), "environment.json")
    run.log_file(curve, "learning_curve.png")
    model_id = _log_model(run, name, training, folder, best)
    # Logged last, because everything it refers to exists by now.
    run.log_file(training.to_json(), TRAINING_FILE)
    return f"models:/{model_id}"


def _log_model(run: TrackedRun, name: str, training: Training, folder: Path, best: "Epoch") -> str:
    """Log a LoggedModel, which ``mlflow.pyfunc.load_model`` opens without this package; returns its id.

    It consists of weights, card and the code that loads them: nothing is unpickled, and the weights are stored once.
    It takes RGB images as float32 (n, 3, image_size, image_size) from 0 to 255, and returns probabilities as float32
    (n, classes); the class names are in the metadata of its ``MLmodel``. A LoggedModel left by an interrupted step is
    reused if complete, otherwise removed.
    """
    from mlflow.entities import LoggedModelOutput

    client, model_id = run.client, None
    for earlier in client.search_logged_models([run.experiment_id], f"source_run_id = '{run.run_id}'"):
        if earlier.status == "READY" and earlier.tags.get("sha256") == training.sha256:
            model_id = earlier.model_id
        else:
            client.delete_logged_model(earlier.model_id)
    if model_id is None:
        model_id = _new_model(run, name, training, folder)
    run.log_metrics(tracked_figures(best), step=best.number, ended=best.ended, model_id=model_id)
    outputs = client.get_run(run.run_id).outputs
    if outputs is None or model_id not in [output.model_id for output in outputs.model_outputs]:
        client.log_outputs(run.run_id, [LoggedModelOutput(model_id, step=best.number)])
    return model_id


def _new_model(run: TrackedRun, name: str, training: Training, folder: Path) -> str:
    from mlflow.models import Model

    tags = {"sha256": training.sha256}
    model = run.client.create_logged_model(run.experiment_id, name, run.run_id, tags, model_type="image classifier")
    with tempfile.TemporaryDirectory() as work:
        path = Path(work) / "model"
        about = Model(artifact_path=model.artifact_location, run_id=run.run_id, model_id=model.model_id)
        _save(path, about, folder, training)
        run.log_model_files(model.model_id, path)
    run.client.finalize_logged_model(model.model_id, "READY")
    return model.model_id


def _save(path: Path, about: "Model", folder: Path, training: Training) -> None:
    """Write the model in MLflow's format, with the first images of the val split as its example."""
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.pyfunc import save_model
    from mlflow.types import Schema, TensorSpec

    from lance_pipeline.images import LanceSplit
    from lance_pipeline.training.example import example_images
    from lance_pipeline.training.weights import CARD_FILE, WEIGHTS_FILE, load_model

    _, card = load_model(folder, training.sha256)
    example = example_images(LanceSplit(**training.val.model_dump()), card)
    images = TensorSpec(np.dtype(np.float32), (-1, *example.shape[1:]))
    probabilities = TensorSpec(np.dtype(np.float32), (-1, len(card.classes)))
    about.metadata = {"classes": card.classes, "fit": card.fit}
    save_model(
        str(path),
        python_model=str(_CODE),
        artifacts={"card": str(folder / CARD_FILE)},
        mlflow_model=about,
        signature=ModelSignature(Schema([images]), Schema([probabilities])),
        input_example=example,
        pip_requirements=[f"{package}=={importlib.metadata.version(package)}" for package in _REQUIRED],
    )
    # Linked here, because MLflow would copy them.
    link_file(folder / WEIGHTS_FILE, path / MODEL_FILES / WEIGHTS_FILE)
