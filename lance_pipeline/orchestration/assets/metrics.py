"""The metrics of the model on a split."""

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import dagster as dg

from lance_pipeline.display import count, percent
from lance_pipeline.orchestration.dataset import Dataset, settings_version
from lance_pipeline.orchestration.lance_store import LanceStore
from lance_pipeline.orchestration.metadata import column_schema, link, show_pictures, shown, table
from lance_pipeline.orchestration.pages.metrics_page import metrics_page
from lance_pipeline.orchestration.pages.page import write_page
from lance_pipeline.orchestration.records import LanceVersion, Metrics, Model, Split
from lance_pipeline.orchestration.runtime.executor import PRELOAD_TAG
from lance_pipeline.orchestration.runtime.failures import clear_failures
from lance_pipeline.orchestration.runtime.gpu import GpuResource
from lance_pipeline.orchestration.runtime.supervision import interruptible
from lance_pipeline.orchestration.tracking.mlflow_tracking import MlflowTracking
from lance_pipeline.orchestration.tracking.model_files import load_or_restore

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import nn

    from lance_pipeline.evaluation.metrics import ClassificationMetrics, ClassMetrics, Metric
    from lance_pipeline.training.device import Device
    from lance_pipeline.training.weights import ModelCard

CODE_VERSION = "1"


def build_metrics(dataset: Dataset, split: str) -> dg.AssetsDefinition:
    """The asset ``<dataset>/metrics_<split>``."""
    name, more = f"metrics_{split}", dataset.plugins.metrics
    spec = dataset.spec(
        name,
        f"How well the model does on the {split} split: metrics, confusion matrix and predictions.",
        {"pytorch", "scikitlearn"},
        settings_version(CODE_VERSION, *sorted(more)) if more else CODE_VERSION,
    )

    @dg.multi_asset(
        name=f"{dataset.name}__{name}",
        ins={"model": dg.AssetIn(dataset.model_key), "data": dg.AssetIn(dataset.key(f"lance_{split}"))},
        outs={name: dg.AssetOut.from_spec(spec)},
        op_tags={PRELOAD_TAG: "torch,torchvision,mlflow,sklearn.metrics,matplotlib.figure", **dataset.step_tags},
    )
    def metrics(
        context: dg.AssetExecutionContext,
        model: Model,
        data: Split,
        gpu: GpuResource,
        mlflow: MlflowTracking,
        lance_store: LanceStore,
    ) -> dg.MaterializeResult[Metrics]:
        from lance_pipeline.evaluation.plots import confusion_picture

        with clear_failures(context):
            uri = lance_store.dataset_uri(f"{dataset.name}_{split}_predictions")
            device = gpu.pick(devices=dataset.attributes.device, precision=model.recipe.precision)
            run = mlflow.existing_run(model.mlflow_run_id)
            with interruptible(context):
                network, card = load_or_restore(dataset.model_key, model, run)
                result, predictions, schema = _evaluate(model, network, card, data, device, uri, more)
            confusion = confusion_picture(result, f"{dataset.name}, {split}: accuracy {result.accuracy:.2%}")
            with mlflow.clear_errors():
                run.log_evaluation(f"{dataset.name}_{split}", split, data, result.scalars())
                run.log_file(confusion, f"{name}/confusion.png")
                run.log_file(result.model_dump_json().encode(), f"{name}/metrics.json")
                run.log_dataset(f"{dataset.name}_{split}", f"evaluation on {split}", data)
            with interruptible(context):
                reports = lance_store.reports_folder(dataset.name)
                content = metrics_page(context.asset_key, model, data, predictions, result, confusion, run.url, reports)
                page = write_page(context, lance_store, context.asset_key, "metrics", content)
        show_pictures(context, context.asset_key, {"confusion": confusion})
        context.log.info(f"{split}: accuracy {result.accuracy:.2%}, macro F1 {result.macro_f1:.3f}")
        record = Metrics(
            network=model.network,
            model_sha256=model.sha256,
            mlflow_run_id=model.mlflow_run_id,
            split=data.data,
            predictions=predictions,
            images=result.images,
            commonest_class=max(one.support for one in result.per_class) / result.images,
            accuracy=result.accuracy,
            top5_accuracy=result.top5_accuracy,
            macro_f1=result.macro_f1,
            loss=result.loss,
        )
        return dg.MaterializeResult(
            value=record,
            data_version=dg.DataVersion(predictions.fingerprint),
            metadata=shown(
                {
                    "page": page,
                    "result": f"{percent(result.accuracy)} of {count(result.images)} images are classified as labelled",
                    # As numbers, which Dagster plots over time.
                    **result.scalars(),
                    "per_class": table([_class_row(one) for one in result.per_class]),
                    "predictions": predictions.uri,
                    "predictions_version": str(predictions.version),
                    "dagster/row_count": result.images,
                    "dagster/column_schema": column_schema(schema),
                    "dagster/uri": predictions.uri,
                    "model_sha256": model.sha256,
                    "lance_version": str(data.data.version),
                    "mlflow_run": link(run.url),
                }
            ),
        )

    return metrics


def _class_row(one: "ClassMetrics") -> dict[str, str | int]:
    return {
        "label": one.label,
        "precision": percent(one.precision),
        "recall": percent(one.recall),
        "f1": f"{one.f1:.3f}",
        "images": one.support,
    }


def _evaluate(
    model: Model,
    network: "nn.Module",
    card: "ModelCard",
    data: Split,
    device: "Device",
    uri: str,
    more: "Mapping[str, Metric]",
) -> "tuple[ClassificationMetrics, LanceVersion, pa.Schema]":
    """The metrics, and the version and Arrow schema of the predictions' dataset."""
    from lance_pipeline.evaluation.metrics import classification_metrics
    from lance_pipeline.evaluation.prediction import evaluation_loader, predict, write_predictions
    from lance_pipeline.images import LanceSplit

    loader = evaluation_loader(LanceSplit(**data.data.model_dump()), card, device)
    predictions = predict(network, loader, device)
    metrics = classification_metrics(predictions, card.classes, more)
    identity = hashlib.sha256(f"{CODE_VERSION} {model.sha256} {data.data.fingerprint}".encode()).hexdigest()
    facts = {
        "model_sha256": model.sha256,
        "lance_uri": data.data.uri,
        "lance_version": data.data.version,
        "fingerprint": identity,
        **metrics.scalars(),
    }
    written = write_predictions(uri, predictions, loader.split.paths(), card.classes, facts)
    return metrics, LanceVersion(uri=uri, version=written.version, fingerprint=identity), written.schema
