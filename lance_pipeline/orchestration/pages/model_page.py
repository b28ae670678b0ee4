"""The page of a model."""

from typing import TYPE_CHECKING, Any

import dagster as dg

from lance_pipeline.display import count, percent
from lance_pipeline.orchestration.metadata import picture_address
from lance_pipeline.orchestration.pages.page import asset_address
from lance_pipeline.orchestration.records import Model

if TYPE_CHECKING:
    from lance_pipeline.training.history import Epoch


def model_page(
    key: dg.AssetKey, record: Model, history: "list[Epoch]", curve: bytes, recipe: dict[str, Any], device: str, url: str
) -> dict[str, Any]:
    """The content for the template ``model``.

    Args:
        key: the key of the model's asset.
        record: the model.
        history: all epochs.
        curve: the learning curve, a PNG.
        recipe: the settings it was trained with, by name.
        device: the device it was trained on.
        url: the address of its MLflow run.
    """
    dataset, best = key.path[0], f"best: epoch {record.best_epoch} of {len(history)}"
    metrics = [
        (f"metrics_{split}", asset_address(dg.AssetKey([dataset, f"metrics_{split}"]))) for split in ("val", "test")
    ]
    return {
        "title": f"val {percent(record.val_accuracy)}",
        "lead": f"Accuracy on val {percent(record.val_accuracy)} ({best}), {count(len(record.classes))} classes.",
        "links": [("asset", asset_address(key)), *metrics, ("MLflow run", url), ("all reports", "/reports/")],
        "curve": picture_address(curve),
        "recipe": [(name.replace("_", " "), _text(value)) for name, value in recipe.items()],
        "epoch_columns": [
            "epoch",
            "train loss",
            "val loss",
            "val accuracy",
            "val macro F1",
            "images/s",
            "waiting for data",
            "seconds",
        ],
        "epoch_rows": [
            (
                epoch.number,
                f"{epoch.train_loss:.4f}",
                f"{epoch.val_loss:.4f}",
                percent(epoch.val_accuracy),
                f"{epoch.val_macro_f1:.3f}",
                count(round(epoch.images_per_second)),
                percent(epoch.data_wait),
                f"{epoch.duration:.1f}",
            )
            for epoch in history
        ],
        "versions": [
            ("weights", f"{record.folder}, SHA-256 {record.sha256}"),
            ("trained on", f"{record.train.uri}, version {record.train.version}"),
            ("best epoch chosen on", f"{record.val.uri}, version {record.val.version}"),
            ("device", device),
            ("MLflow run", record.mlflow_run_id),
            ("classes", ", ".join(record.classes)),
        ],
    }


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
