"""The trained model, an asset named after its network."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from lance_pipeline.display import printable
from lance_pipeline.errors import ExplainedError
from lance_pipeline.orchestration.assets.model_metadata import (
    STEP_TAGS,
    model_metadata,
    model_spec,
    run_tags,
    version_tag,
)
from lance_pipeline.orchestration.dataset import Dataset
from lance_pipeline.orchestration.lance_store import LanceStore
from lance_pipeline.orchestration.metadata import show_pictures, shown
from lance_pipeline.orchestration.pages.model_page import model_page
from lance_pipeline.orchestration.pages.page import write_page
from lance_pipeline.orchestration.record_io import RecordIOManager
from lance_pipeline.orchestration.records import Model, Split
from lance_pipeline.orchestration.retention.retain import Retention
from lance_pipeline.orchestration.runtime.failures import clear_failures
from lance_pipeline.orchestration.runtime.gpu import GpuResource
from lance_pipeline.orchestration.runtime.resumption import checkpoints_to_use, finished_trainings
from lance_pipeline.orchestration.runtime.supervision import supervised
from lance_pipeline.orchestration.tracking.mlflow_tracking import MlflowTracking
from lance_pipeline.orchestration.tracking.tracked_training import Plan, Surroundings, settings, tracked_training
from lance_pipeline.orchestration.tracking.training_log import log_training, training_record

if TYPE_CHECKING:
    from lance_pipeline.training.checkpoint import Checkpoints
    from lance_pipeline.training.device import Device

POOL = "gpu"


class TrainingConfig(dg.Config):
    """How one run trains; what is learned is settled by the recipe."""

    fresh: bool = Field(
        default=False, description="Start from scratch, even if an interrupted training could be resumed."
    )
    checkpoint_minutes: float = Field(
        default=10, gt=0, description="Save a checkpoint after so many minutes, and at the end of each epoch."
    )


def build_model(dataset: Dataset) -> dg.AssetsDefinition:
    """The asset ``<dataset>/<network>``, such as ``digits/resnet34``."""
    network = dataset.network

    @dg.multi_asset(
        name=f"{dataset.name}__{network}",
        ins={f"lance_{split}": dg.AssetIn(dataset.key(f"lance_{split}")) for split in ("train", "val")},
        outs={network: dg.AssetOut.from_spec(model_spec(dataset))},
        op_tags=STEP_TAGS | dataset.step_tags,
        pool=POOL,
    )
    def model(
        context: dg.AssetExecutionContext,
        config: TrainingConfig,
        lance_train: Split,
        lance_val: Split,
        gpu: GpuResource,
        mlflow: MlflowTracking,
        lance_store: LanceStore,
        io_manager: dg.ResourceParam[RecordIOManager],
    ) -> Iterator[dg.MaterializeResult[Model]]:
        from lance_pipeline.training.checkpoint import exclusive

        what, run_id = context.asset_key.to_user_string(), context.run.run_id

        def on_wait(text: str) -> None:
            context.log.info(printable(text))
            context.log_event(dg.AssetObservation(context.asset_key, metadata=shown({"waiting": text})))

        def observe(figures: Mapping[str, Any]) -> None:
            context.log_event(dg.AssetObservation(context.asset_key, metadata=figures))

        with clear_failures(context), supervised(context) as stop:
            # Fail before waiting for locks.
            mlflow.require_start()
            folder = lance_store.checkpoint_folder(dataset.name)
            surroundings = Surroundings(run_id, context.log, observe, stop, folder, version_tag, mlflow, lance_store)
            place = exclusive(folder, what, run_id, on_wait=on_wait, stop=stop)
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
                    result, checkpoints = _train(context, dataset, config, lance_train, lance_val, device, surroundings)
                yield result
                # Dagster resumes here once record and materialization are stored: the checkpoint is no longer needed.
                _remove_old(context, dataset, checkpoints, mlflow, lance_store, io_manager)

    return model


def _train(
    context: dg.AssetExecutionContext,
    dataset: Dataset,
    config: TrainingConfig,
    train: Split,
    val: Split,
    device: "Device",
    surroundings: Surroundings,
) -> "tuple[dg.MaterializeResult[Model], Checkpoints]":
    """Train, resuming from a checkpoint if there is one, and log everything; the checkpoint is still needed."""
    from lance_pipeline.evaluation.plots import learning_curve
    from lance_pipeline.training.weights import save_model

    key, store, image_size = context.asset_key, surroundings.store, dataset.attributes.image_size

    def choose(identity: dict[str, Any]) -> "Checkpoints":
        return checkpoints_to_use(
            context.log.info,
            lambda: finished_trainings(context.instance, key),
            surroundings.folder,
            identity,
            device,
            fresh=config.fresh,
            every=config.checkpoint_minutes * 60,
        )

    plan = Plan(dataset.name, train, val, dataset.network, dataset.recipe, image_size, run_tags(key))
    then, now = plan.inputs.train.transparency, dataset.attributes.transparency
    if then != now:
        context.log.info(
            f"The images were ingested with `transparency: {then}`, and are trained on so. Materialize "
            f"{dataset.key('lance_train').to_user_string()} for `{now}`."
        )
    start = plan.start(device, store.downloads_folder, surroundings.folder, fresh=config.fresh)

    with tracked_training(plan, start, device, surroundings, choose) as finished:
        trained, card, checkpoints, run = finished.trained, finished.card, finished.checkpoints, finished.run
        folder = store.model_folder(dataset.name, surroundings.run_id)
        sha256 = save_model(folder, trained.state, card)
        curve = learning_curve(trained.history, trained.best, f"{dataset.name}: learning curve")
        training = training_record(checkpoints, device, trained.history, sha256)
        with surroundings.mlflow.clear_errors():
            model_uri = log_training(run, dataset.name, training, folder, trained.best, curve)
    record = Model(
        network=dataset.network,
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
    page = write_page(context, store, key, "model", content)
    metadata = shown({"page": page} | model_metadata(record, device, run.url, trained.history) | more)
    return dg.MaterializeResult(value=record, data_version=dg.DataVersion(sha256), metadata=metadata), checkpoints


def _remove_old(
    context: dg.AssetExecutionContext,
    dataset: Dataset,
    checkpoints: "Checkpoints",
    mlflow: MlflowTracking,
    lance_store: LanceStore,
    records: RecordIOManager,
) -> None:
    """Remove the checkpoint, and models and runs beyond the limits; failures are only logged."""
    keep, own_run = dataset.attributes.maintenance.keep, context.run.run_id
    try:
        checkpoints.remove()
        retention = Retention(dataset.name, keep, context.instance, mlflow, lance_store, records, own_run)
        troubles = retention.apply(context.log.info).troubles
    except ExplainedError as error:
        troubles = [str(error)]
    for trouble in troubles:
        context.log.warning(f"Not all that may go was removed: {trouble} The next training or maintenance tries again.")
