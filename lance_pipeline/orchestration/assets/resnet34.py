"""The trained model."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from lance_pipeline.display import percent, printable
from lance_pipeline.errors import InputError
from lance_pipeline.orchestration.dataset import Dataset, settings_version
from lance_pipeline.orchestration.lance_store import LanceStore
from lance_pipeline.orchestration.metadata import link, show_pictures, shown, table
from lance_pipeline.orchestration.pages.model_page import model_page
from lance_pipeline.orchestration.pages.page import write_page
from lance_pipeline.orchestration.record_io import RecordIOManager
from lance_pipeline.orchestration.records import Model, Split
from lance_pipeline.orchestration.retention.models import TRAINED_TAG
from lance_pipeline.orchestration.retention.retain import Retention
from lance_pipeline.orchestration.runtime.executor import PRELOAD_TAG
from lance_pipeline.orchestration.runtime.failures import clear_failures
from lance_pipeline.orchestration.runtime.gpu import GpuResource
from lance_pipeline.orchestration.runtime.resumption import checkpoints_to_use, finished_trainings
from lance_pipeline.orchestration.runtime.supervision import supervised
from lance_pipeline.orchestration.tracking.mlflow_tracking import MlflowTracking
from lance_pipeline.orchestration.tracking.tracked_training import Plan, Surroundings, settings, tracked_training
from lance_pipeline.orchestration.tracking.training_log import log_training, training_record
from lance_pipeline.training.recipe import CODE_VERSION

if TYPE_CHECKING:
    from lance_pipeline.training.checkpoint import Checkpoints
    from lance_pipeline.training.device import Device
    from lance_pipeline.training.history import Epoch

POOL = "gpu"


class TrainingConfig(dg.Config):
    """How one run trains; what is learned is settled by the recipe."""

    fresh: bool = Field(default=False, description="Train anew, even where an interrupted training could go on.")
    checkpoint_minutes: float = Field(
        default=10, gt=0, description="Save a checkpoint after so many minutes, and at the end of each epoch."
    )


def build_resnet34_asset(dataset: Dataset) -> dg.AssetsDefinition:
    """The asset ``<dataset>/resnet34``."""
    spec = dataset.spec(
        "resnet34",
        "A ResNet-34 trained on the train split; of all epochs the best on the val split.",
        {"pytorch", "mlflow"},
        settings_version(
            CODE_VERSION, dataset.attributes.recipe, dataset.attributes.image_size, dataset.weights_state()
        ),
    )

    @dg.multi_asset(
        name=f"{dataset.name}__resnet34",
        ins={f"lance_{split}": dg.AssetIn(dataset.key(f"lance_{split}")) for split in ("train", "val")},
        outs={"resnet34": dg.AssetOut.from_spec(spec)},
        op_tags={PRELOAD_TAG: "torch,torchvision,mlflow.pytorch,sklearn.metrics,matplotlib.figure"},
        pool=POOL,
    )
    def resnet34(
        context: dg.AssetExecutionContext,
        config: TrainingConfig,
        lance_train: Split,
        lance_val: Split,
        gpu: GpuResource,
        mlflow: MlflowTracking,
        lance_store: LanceStore,
        io_manager: dg.ResourceParam[RecordIOManager],
    ):
        from lance_pipeline.training.checkpoint import exclusive

        what, run_id = context.asset_key.to_user_string(), context.run.run_id

        def on_wait(text: str) -> None:
            context.log.info(printable(text))
            context.log_event(dg.AssetObservation(context.asset_key, metadata=shown({"waiting": text})))

        with clear_failures(), supervised(context) as stop:
            # Before anything is waited for.
            mlflow.require_start()
            place = exclusive(lance_store.checkpoint_folder(dataset.name), what, run_id, on_wait=on_wait, stop=stop)
            devices = gpu.hold(
                what,
                run_id,
                devices=dataset.attributes.device,
                precision=dataset.recipe.precision,
                on_wait=on_wait,
                stop=stop,
            )
            with place:
                with devices as device:
                    context.log.info(f"Training on {device.name} in {device.precision} ({device.reason})")
                    result, checkpoints = _trained(
                        context, dataset, config, lance_train, lance_val, device, stop, mlflow, lance_store
                    )
                yield result
                # Dagster asks for more once record and materialization are stored: nothing needs the checkpoint now.
                _remove_old(context, dataset, checkpoints, mlflow, lance_store, io_manager)

    return resnet34


def _trained(
    context: dg.AssetExecutionContext,
    dataset: Dataset,
    config: TrainingConfig,
    train: Split,
    val: Split,
    device: "Device",
    stop: Callable[[], str | None],
    mlflow: MlflowTracking,
    lance_store: LanceStore,
) -> "tuple[dg.MaterializeResult[Model], Checkpoints]":
    """Train from the checkpoint where there is one, and log it all; the checkpoint is still needed."""
    from lance_pipeline.evaluation.plots import learning_curve
    from lance_pipeline.training.weights import save_model

    key, run_id, image_size = context.asset_key, context.run.run_id, dataset.attributes.image_size
    folder = lance_store.checkpoint_folder(dataset.name)

    def observe(figures: Mapping[str, Any]) -> None:
        context.log_event(dg.AssetObservation(key, metadata=figures))

    def choose(identity: dict[str, Any]) -> "Checkpoints":
        return checkpoints_to_use(
            context.log.info,
            lambda: finished_trainings(context.instance, key),
            folder,
            identity,
            device,
            fresh=config.fresh,
            every=config.checkpoint_minutes * 60,
        )

    plan = Plan(dataset.name, train, val, dataset.recipe, image_size, tags={"dagster.asset_key": key.to_user_string()})
    then, now = plan.splits[0].transparency, dataset.attributes.transparency
    if then != now:
        context.log.info(
            f"The images were ingested with `transparency: {then}`, and are trained on so. Materialize "
            f"{dataset.key('lance_train').to_user_string()} for `{now}`."
        )
    start = plan.start(device, lance_store.downloads_folder, folder, fresh=config.fresh)

    def pin(training_id: str) -> str:
        return f"{TRAINED_TAG}.{training_id}"

    surroundings = Surroundings(run_id, context.log, observe, stop, folder, pin, mlflow, lance_store)
    with tracked_training(plan, start, device, surroundings, choose) as finished:
        trained, card, checkpoints, run = finished.trained, finished.card, finished.checkpoints, finished.run
        folder = lance_store.model_folder(dataset.name, run_id)
        sha256 = save_model(folder, trained.state, card)
        curve = learning_curve(trained.history, trained.best, f"{dataset.name}: learning curve")
        training = training_record(checkpoints, device, trained.history, sha256)
        with mlflow.clear_errors():
            model_uri = log_training(run, dataset.name, training, folder, trained.best, curve)
    record = Model(
        mlflow_run_id=run.run_id,
        folder=str(folder),
        sha256=sha256,
        classes=card.classes,
        image_size=image_size,
        recipe=finished.recipe,
        train=train.data,
        val=val.data,
        best_epoch=trained.best.number,
        val_accuracy=trained.best.val_accuracy,
        train_accuracy=trained.train_accuracy,
        val_counts=val.counts,
        val_accuracies=[epoch.val_accuracy for epoch in trained.history],
    )
    more = {
        "training_id": checkpoints.training_id,
        "mlflow_model": model_uri,
        "weights": printable(start.reason),
        "recipe": settings(finished.recipe, card),
    }
    show_pictures(context, key, {"learning_curve": curve})
    about = f"{device.name} in {device.precision}: {device.reason}"
    content = model_page(key, record, trained.history, curve, more["recipe"], about, run.url)
    page = write_page(context, lance_store, key, "model", content)
    metadata = shown({"page": page} | _metadata(record, device, run.url, trained.history) | more)
    return dg.MaterializeResult(value=record, data_version=dg.DataVersion(sha256), metadata=metadata), checkpoints


def _remove_old(
    context: dg.AssetExecutionContext,
    dataset: Dataset,
    checkpoints: "Checkpoints",
    mlflow: MlflowTracking,
    lance_store: LanceStore,
    records: RecordIOManager,
) -> None:
    """Remove the checkpoint, and models and runs beyond the limits. What cannot be removed is no reason to fail."""
    keep, own_run = dataset.attributes.maintenance.keep, context.run.run_id
    try:
        checkpoints.remove()
        retention = Retention(dataset.name, keep, context.instance, mlflow, lance_store, records, own_run)
        troubles = retention.apply(context.log.info).troubles
    except InputError as error:
        troubles = [str(error)]
    for trouble in troubles:
        context.log.warning(f"Not all that may go was removed: {trouble} The next training or maintenance tries again.")


def _metadata(record: Model, device: "Device", url: str, history: list["Epoch"]) -> dict[str, Any]:
    return {
        "result": f"{percent(record.val_accuracy)} of val are classified as labelled, after epoch {record.best_epoch} "
        f"of {len(history)}",
        # As numbers, of which Dagster draws series.
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
