"""The trained model."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import dagster as dg

from lance_pipeline.orchestration.dataset import Dataset, settings_version
from lance_pipeline.orchestration.failures import clear_failures
from lance_pipeline.orchestration.gpu import GpuResource
from lance_pipeline.orchestration.lance_store import LanceStore
from lance_pipeline.orchestration.metadata import table
from lance_pipeline.orchestration.mlflow_tracking import MlflowTracking, TrackedRun
from lance_pipeline.orchestration.progress import Throttle, clock
from lance_pipeline.orchestration.records import Model, Split

if TYPE_CHECKING:
    from lance_pipeline.training.device import Device
    from lance_pipeline.training.loop import Epoch, Step

CODE_VERSION = "1"
POOL = "gpu"


def build_resnet34_asset(dataset: Dataset) -> dg.AssetsDefinition:
    """The asset ``<dataset>/resnet34``."""
    recipe, image_size = dataset.recipe, dataset.attributes.image_size
    spec = dataset.spec(
        "resnet34",
        "A ResNet-34 trained on the train split; of all epochs the best on the val split.",
        {"pytorch", "mlflow"},
        settings_version(CODE_VERSION, dataset.attributes.recipe, image_size, dataset.weights_state()),
        metadata={
            "recipe": dataset.attributes.recipe.model_dump(mode="json", exclude_none=True),
            "image_size": image_size,
        },
    )

    @dg.multi_asset(
        name=f"{dataset.name}__resnet34",
        ins={f"lance_{split}": dg.AssetIn(dataset.key(f"lance_{split}")) for split in ("train", "val")},
        outs={"resnet34": dg.AssetOut.from_spec(spec)},
        pool=POOL,
    )
    def resnet34(
        context: dg.AssetExecutionContext,
        lance_train: Split,
        lance_val: Split,
        gpu: GpuResource,
        mlflow: MlflowTracking,
        lance_store: LanceStore,
    ):
        from lance_pipeline.images import CachePlace, LanceSplit
        from lance_pipeline.images.maintenance import keep_version
        from lance_pipeline.training.checkpoint import save_model
        from lance_pipeline.training.fit import fit_resnet34

        with clear_failures():
            device = gpu.pick()
            context.log.info(f"Training on {device.name} in {device.precision} ({device.reason})")
            run_name = f"{dataset.name}-{context.run.run_id[:8]}"
            tags = _tags(context, lance_train, lance_val)
            with mlflow.new_run(dataset.name, run_name, tags) as run:
                context.log.info(f"MLflow run {run.run_id}: {run.url}")
                run.log_params(recipe.model_dump() | {"image_size": image_size, "device": device.name})
                run.log_dataset(f"{dataset.name}_train", "training", lance_train.data)
                run.log_dataset(f"{dataset.name}_val", "validation", lance_val.data)
                # From now on no clean-up can remove what this training reads.
                for data in (lance_train.data, lance_val.data):
                    keep_version(data.uri, data.version, f"trained.{run.run_id}")
                reporter = _Reporter(context, run)
                trained, card = fit_resnet34(
                    LanceSplit(lance_train.data.uri, lance_train.data.version),
                    LanceSplit(lance_val.data.uri, lance_val.data.version),
                    recipe,
                    device,
                    image_size=image_size,
                    downloads=lance_store.downloads,
                    cache=CachePlace(str(lance_store.cache_folder), lance_store.cache_budget),
                    tell=context.log.info,
                    on_epoch=reporter.on_epoch,
                    on_step=reporter.on_step,
                )
                folder = lance_store.model_folder(dataset.name, context.run.run_id)
                sha256 = save_model(folder, trained.state, card)
                run.log_folder(folder, "model")
        record = Model(
            mlflow_run_id=run.run_id,
            folder=str(folder),
            sha256=sha256,
            classes=card.classes,
            image_size=image_size,
            recipe=recipe,
            train=lance_train.data,
            val=lance_val.data,
            best_epoch=trained.best.number,
            val_accuracy=trained.best.val_accuracy,
        )
        return dg.MaterializeResult(
            value=record,
            data_version=dg.DataVersion(sha256),
            metadata=_metadata(record, device, run.url, trained.history),
        )

    return resnet34


class _Reporter:
    """Tells log, asset page and MLflow how the training goes."""

    def __init__(self, context: dg.AssetExecutionContext, run: TrackedRun) -> None:
        self._context, self._run = context, run
        self._throttle = Throttle()

    def on_epoch(self, epoch: "Epoch") -> None:
        """A line in the log, an observation on the asset and a step in MLflow."""
        self._context.log.info(
            f"Epoch {epoch.number}/{epoch.of}: loss {epoch.train_loss:.3f}, val accuracy {epoch.val_accuracy:.2%}, "
            f"{epoch.images_per_second:.0f} images/s, {epoch.data_wait:.1%} waiting for data, {clock(epoch.duration)}, "
            f"{clock(epoch.seconds_left)} left"
        )
        figures = {key: value for key, value in asdict(epoch).items() if key not in ("number", "of", "seconds_left")}
        progress = {"epoch": epoch.number, "epochs": epoch.of, "seconds_left": epoch.seconds_left}
        self._context.log_event(dg.AssetObservation(self._context.asset_key, metadata=progress | figures))
        self._run.log_metrics(figures, step=epoch.number)

    def on_step(self, step: "Step") -> None:
        """A line in the log every ten seconds."""
        if self._throttle.ready():
            self._context.log.info(
                f"Epoch {step.epoch}, batch {step.batch}/{step.batches}: loss {step.loss.item():.3f}, "
                f"{clock(step.seconds_left)} left"
            )


def _tags(context: dg.AssetExecutionContext, train: Split, val: Split) -> dict[str, str]:
    tags = {"dagster.run_id": context.run.run_id, "dagster.asset_key": context.asset_key.to_user_string()}
    for split, record in (("train", train), ("val", val)):
        tags |= {
            f"lance.{split}.uri": record.data.uri,
            f"lance.{split}.version": str(record.data.version),
            f"lance.{split}.fingerprint": record.data.fingerprint,
        }
    return tags


def _metadata(record: Model, device: "Device", url: str, history: list["Epoch"]) -> dict[str, Any]:
    return {
        "val_accuracy": record.val_accuracy,
        "best_epoch": record.best_epoch,
        "device": device.name,
        "device_reason": device.reason,
        "precision": device.precision,
        "mlflow_run": dg.MetadataValue.url(url),
        "mlflow_run_id": record.mlflow_run_id,
        "dagster/uri": record.folder,
        "weights_sha256": record.sha256,
        "lance_train_version": record.train.version,
        "lance_val_version": record.val.version,
        "classes": ", ".join(record.classes),
        "epochs": table(
            [
                {
                    "epoch": epoch.number,
                    "train_loss": round(epoch.train_loss, 4),
                    "val_loss": round(epoch.val_loss, 4),
                    "val_accuracy": round(epoch.val_accuracy, 4),
                    "images_per_second": round(epoch.images_per_second, 1),
                    "data_wait": round(epoch.data_wait, 4),
                    "seconds": round(epoch.duration, 1),
                }
                for epoch in history
            ]
        ),
    }
