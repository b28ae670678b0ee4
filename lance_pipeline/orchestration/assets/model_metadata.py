"""What Dagster and MLflow show about a model: the asset's spec, its tags and its metadata."""

from typing import TYPE_CHECKING, Any

import dagster as dg

from lance_pipeline.display import percent
from lance_pipeline.orchestration.dataset import Dataset, settings_version
from lance_pipeline.orchestration.metadata import link, table
from lance_pipeline.orchestration.records import Model
from lance_pipeline.orchestration.retention.models import TRAINED_TAG
from lance_pipeline.orchestration.runtime.executor import PRELOAD_TAG
from lance_pipeline.training.recipe import CODE_VERSION

if TYPE_CHECKING:
    from lance_pipeline.training.device import Device
    from lance_pipeline.training.history import Epoch

STEP_TAGS = {PRELOAD_TAG: "torch,torchvision,mlflow.pytorch,sklearn.metrics,matplotlib.figure"}


def model_spec(dataset: Dataset) -> dg.AssetSpec:
    """The asset ``<dataset>/<network>``; a changed recipe or weights file makes it stale."""
    # The network is part of the key, not of the settings.
    settings = dataset.attributes.recipe, dataset.attributes.image_size, dataset.weights_state()
    return dataset.spec(
        dataset.network,
        f"{dataset.network}, trained on the train split; of all epochs the best on the val split.",
        {"pytorch", "mlflow"},
        settings_version(CODE_VERSION, *settings),
    )


def run_tags(key: dg.AssetKey) -> dict[str, str]:
    """The tags of the MLflow run that trains the model of an asset."""
    return {"dagster.asset_key": key.to_user_string()}


def version_tag(training_id: str) -> str:
    """The tag on the Lance versions that a training reads."""
    return f"{TRAINED_TAG}.{training_id}"


def model_metadata(record: Model, device: "Device", url: str, history: "list[Epoch]") -> dict[str, Any]:
    """The metadata of a materialization.

    Args:
        record: the model.
        device: the device that trained it.
        url: the address of its MLflow run.
        history: all epochs.
    """
    return {
        "result": f"{percent(record.val_accuracy)} of val are classified as labelled, after epoch {record.best_epoch} "
        f"of {len(history)}",
        # As numbers, which Dagster plots over time.
        "val_accuracy": record.val_accuracy,
        "train_accuracy": record.train_accuracy,
        "best_epoch": record.best_epoch,
        "device": device.name,
        "device_reason": device.reason,
        "precision": device.precision,
        "mlflow_run": link(url),
        "mlflow_run_id": record.mlflow_run_id,
        "dagster/uri": record.folder,
        "weights_sha256": record.sha256,
        "lance_train_version": str(record.train.version),
        "lance_val_version": str(record.val.version),
        "classes": ", ".join(record.classes),
        "epochs": table(
            [
                {
                    "epoch": epoch.number,
                    "train_loss": round(epoch.train_loss, 4),
                    "val_loss": round(epoch.val_loss, 4),
                    "val_accuracy": percent(epoch.val_accuracy),
                    "val_macro_f1": round(epoch.val_macro_f1, 4),
                    "images_per_second": round(epoch.images_per_second, 1),
                    "data_wait": percent(epoch.data_wait),
                    "seconds": round(epoch.duration, 1),
                }
                for epoch in history
            ]
        ),
    }
