"""The page of a model's metrics on a split."""

from typing import TYPE_CHECKING, Any

import dagster as dg

from lance_pipeline.display import count, percent
from lance_pipeline.orchestration.metadata import picture_address
from lance_pipeline.orchestration.pages.page import asset_address
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
) -> dict[str, Any]:
    """What the template ``metrics`` shows.

    Args:
        key: of the metrics' asset.
        model: the model.
        data: the split that it was measured on.
        predictions: of the model on the split.
        result: the metrics.
        confusion: the confusion matrix, a PNG.
        url: of the MLflow run.

    Raises:
        DamagedError: an image is not what was ingested.
    """
    from lance_pipeline.evaluation.mistakes import common_confusions, confident_mistakes
    from lance_pipeline.images import LanceSplit
    from lance_pipeline.images.thumbnails import jpeg

    split = LanceSplit(**data.data.model_dump())
    mistakes = confident_mistakes(predictions.uri, predictions.version, split, _MISTAKES)
    wrong = round((1 - result.accuracy) * result.images)
    return {
        "title": f"accuracy {percent(result.accuracy)}",
        "lead": f"Accuracy {percent(result.accuracy)}: {count(wrong)} of {count(result.images)} images are classified "
        f"wrongly. Macro F1 {result.macro_f1:.3f}, loss {result.loss:.3f} nats, among the first five "
        f"{percent(result.top5_accuracy)}.",
        "links": [
            ("asset", asset_address(key)),
            ("model", asset_address(dg.AssetKey([key.path[0], "resnet34"]))),
            ("MLflow run", url),
            ("all reports", "/reports/"),
        ],
        "mistakes": [
            (
                picture_address(jpeg(one.sample.image)),
                f"{one.predicted} {percent(one.probability)}",
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
