"""The page with a model's metrics on a split."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from lance_pipeline.display import count, percent
from lance_pipeline.orchestration.metadata import picture_address
from lance_pipeline.orchestration.pages.page import asset_address, page_address, page_path
from lance_pipeline.orchestration.records import LanceVersion, Model, Split

if TYPE_CHECKING:
    from lance_pipeline.evaluation.metrics import ClassificationMetrics

_MISTAKES, _CONFUSIONS = 60, 15


def metrics_page(
    key: dg.AssetKey,
    model: Model,
    data: Split,
    predictions: LanceVersion,
    result: "ClassificationMetrics",
    confusion: bytes,
    url: str,
    reports: Path,
) -> dict[str, Any]:
    """The content for the template ``metrics``.

    Args:
        key: the key of the metrics' asset.
        model: the model.
        data: the split that it was measured on.
        predictions: the model's predictions for the split.
        result: the metrics.
        confusion: the confusion matrix, a PNG.
        url: the address of the MLflow run.
        reports: the folder of the dataset's pages.

    Raises:
        DamagedError: an image differs from what was ingested.
    """
    from lance_pipeline.evaluation.mistakes import common_confusions, confident_mistakes
    from lance_pipeline.images import LanceSplit
    from lance_pipeline.imaging.thumbnails import jpeg

    split = LanceSplit(**data.data.model_dump())
    mistakes = confident_mistakes(predictions.uri, predictions.version, split, _MISTAKES)
    wrong = round((1 - result.accuracy) * result.images)
    return {
        "title": f"accuracy {percent(result.accuracy)}",
        "lead": f"Accuracy {percent(result.accuracy)}: {count(wrong)} of {count(result.images)} images are classified "
        f"wrongly. Macro F1 {result.macro_f1:.3f}, top-5 accuracy {percent(result.top5_accuracy)}, loss "
        f"{result.loss:.3f} nats.",
        "links": [
            ("asset", asset_address(key)),
            ("model", _model_address(dg.AssetKey([key.path[0], model.network]), model, reports)),
            ("MLflow run", url),
            ("all reports", "/reports/"),
        ],
        "mistakes": [
            (
                picture_address(jpeg(one.sample.image)),
                f"predicted {one.predicted}, {percent(one.probability)}",
                f"label {one.label}",
                one.sample.path,
            )
            for one in mistakes
        ],
        "confusions": [
            (true, predicted, count(images))
            for true, predicted, images in common_confusions(
                result.confusion, [one.label for one in result.per_class], _CONFUSIONS
            )
        ],
        "confusion": picture_address(confusion),
        "more": [(name.replace("_", " "), f"{value:.4g}") for name, value in result.more.items()],
        "class_rows": [
            (one.label, percent(one.precision), percent(one.recall), f"{one.f1:.3f}", count(one.support))
            for one in result.per_class
        ],
        "versions": [
            ("model", f"{model.folder}, SHA-256 {model.sha256}"),
            ("split", f"{data.data.uri}, version {data.data.version}"),
            ("predictions", f"{predictions.uri}, version {predictions.version}"),
            ("MLflow run", model.mlflow_run_id),
        ],
    }


def _model_address(key: dg.AssetKey, model: Model, reports: Path) -> str:
    """The page of exactly this model or, if it has none, its asset."""
    run_id = Path(model.folder).name
    return page_address(key, run_id) if page_path(reports, key.path[-1], run_id).is_file() else asset_address(key)
