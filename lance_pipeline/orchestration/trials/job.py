"""The job ``<dataset>_experiment``: tries recipes without changing any asset."""

from typing import Any, cast

import dagster as dg
from pydantic import Field

from lance_pipeline.display import printable
from lance_pipeline.errors import InputError, Stopped
from lance_pipeline.orchestration.dataset import SPLITS, Dataset
from lance_pipeline.orchestration.lance_store import LanceStore
from lance_pipeline.orchestration.record_io import RecordIOManager
from lance_pipeline.orchestration.records import Model, Split
from lance_pipeline.orchestration.runtime.executor import PRELOAD_TAG
from lance_pipeline.orchestration.runtime.failures import clear_failures
from lance_pipeline.orchestration.runtime.gpu import GpuResource
from lance_pipeline.orchestration.runtime.supervision import supervised
from lance_pipeline.orchestration.tracking.mlflow_tracking import MlflowTracking
from lance_pipeline.orchestration.trials.settings import candidates, from_run_config, to_run_config

CURRENT = "lance_pipeline/current"
"""Metadata of the job: the file that defines the dataset, and the attributes that trials may change."""
POOL = "gpu"


def op_name(dataset: str) -> str:
    """The name of the only step of a dataset's job, as used in a run's configuration."""
    return f"{dataset}__experiment"


def job_name(dataset: str) -> str:
    """The name of a dataset's job."""
    return f"{dataset}_experiment"


class ExperimentConfig(dg.Config):
    """What is tried; with nothing set, the current recipe."""

    settings: dict[str, Any] = Field(
        default={},
        description="What to change, such as `recipe.epochs: 30`. Several values are searched, each with each of the "
        "others: `recipe.mixup: [0, 0.2, 0.4]`.",
    )
    seeds: int = Field(default=1, ge=1, description="Train each so often, with seeds that count up.")
    test: bool = Field(default=False, description="Measure the test split too; it chooses nothing.")


def build_experiment_job(dataset: Dataset, defs_yaml: str) -> dg.JobDefinition:
    """The experiment job of a dataset.

    Args:
        dataset: the dataset.
        defs_yaml: the file that defines the dataset.
    """

    @dg.op(
        name=op_name(dataset.name),
        out={},
        pool=POOL,
        tags={PRELOAD_TAG: "torch,torchvision,mlflow,sklearn.metrics,matplotlib.figure", **dataset.step_tags},
    )
    def experiment(
        context: dg.OpExecutionContext,
        config: ExperimentConfig,
        gpu: GpuResource,
        mlflow: MlflowTracking,
        lance_store: LanceStore,
        io_manager: dg.ResourceParam[RecordIOManager],
    ):
        from lance_pipeline.ingest.maintenance import release_version
        from lance_pipeline.orchestration.trials.experiment import PIN, Experiment
        from lance_pipeline.orchestration.trials.listing import listing
        from lance_pipeline.training.checkpoint import exclusive

        with clear_failures(context), supervised(cast("dg.AssetExecutionContext", context)) as stop:
            chosen = candidates(dataset.attributes, from_run_config(config.settings))
            require_val_only(len(chosen), test=config.test)
            # Check before waiting for anything.
            mlflow.client()
            splits = {
                split: io_manager.read(context.instance, dataset.key(f"lance_{split}"), Split)
                for split in (SPLITS if config.test else SPLITS[:2])
            }
            trials = Experiment(
                dataset,
                splits,
                current_model(io_manager, context.instance, dataset.model_key),
                context,
                stop,
                gpu,
                mlflow,
                lance_store,
                config.test,
            )
            with exclusive(
                lance_store.trials_folder(dataset.name),
                f"an experiment with {dataset.name}",
                context.run_id,
                on_wait=lambda text: context.log.info(printable(text)),
                stop=stop,
            ):
                try:
                    trials.run(chosen, config.seeds)
                except Stopped:
                    context.log.info("Run the same experiment again to resume: what has ended is not trained again.")
                    raise
                for split in splits.values():
                    release_version(split.data.uri, PIN)
            context.log.info(
                "\n".join(
                    ["Tried so far:", *listing(dataset.name, dataset.attributes, io_manager, context.instance, mlflow)]
                )
            )

    about = {
        "defs_yaml": defs_yaml,
        "recipe": dataset.attributes.recipe.model_dump(mode="json", exclude_unset=True),
        "model": dataset.network,
        "image_size": dataset.attributes.image_size,
    }

    @dg.job(
        name=job_name(dataset.name),
        description=f"Try recipes on the current versions of {dataset.name}, in MLflow only: no asset changes. Set "
        "them in the launchpad, or use `lance-pipeline try`.",
        metadata={CURRENT: dg.MetadataValue.json(about)},
    )
    def job():
        experiment()

    return job


def run_config(dataset: str, values: dict[str, list[Any]], seeds: int, *, test: bool) -> dict[str, Any]:
    """The run configuration that tries these values."""
    return {"ops": {op_name(dataset): {"config": {"settings": to_run_config(values), "seeds": seeds, "test": test}}}}


def require_val_only(candidates: int, *, test: bool) -> None:
    """Prevent choosing by the test split.

    Raises:
        InputError: several candidates would be evaluated on it.
    """
    if test and candidates > 1:
        raise InputError(
            "the test split is for one recipe, not to choose among several: search by val, then try the best one with "
            "--test (`test: true`)."
        )


def current_model(records: RecordIOManager, instance: dg.DagsterInstance, key: dg.AssetKey) -> Model | None:
    """The record of the current model, the asset with this key; None if there is none.

    Raises:
        InputError: the record cannot be read.
    """
    return records.read(instance, key, Model) if instance.get_latest_materialization_event(key) else None
