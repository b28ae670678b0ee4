"""What runs by itself: retraining where it is asked for, and maintenance."""

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from lance_pipeline.orchestration.attributes import Maintenance, Retrain
from lance_pipeline.orchestration.dataset import Dataset


def build_retraining(dataset: Dataset) -> dg.Definitions:
    """The job ``<dataset>_retrain`` over the whole graph, and its schedule of the same name."""
    name = f"{dataset.name}_retrain"
    job = dg.define_asset_job(
        name,
        selection=dg.AssetSelection.groups(dataset.name),
        description=f"Ingest {dataset.name} again, train anew and evaluate.",
    )
    retrain = dataset.attributes.retrain
    return dg.Definitions(jobs=[job], schedules=[] if retrain is None else [_schedule(job, retrain)])


def build_maintenance_job(dataset: Dataset) -> dg.Definitions:
    """The job ``<dataset>_maintenance`` and its schedule, which is off unless it is enabled."""
    job = dg.define_asset_job(
        f"{dataset.name}_maintenance",
        selection=dg.AssetSelection.assets(dataset.key("maintenance")),
        description=f"Compact the Lance tables of {dataset.name} and remove their old versions.",
    )
    return dg.Definitions(jobs=[job], schedules=[_schedule(job, dataset.attributes.maintenance)])


def _schedule(job: UnresolvedAssetJobDefinition, timing: Retrain | Maintenance) -> dg.ScheduleDefinition:
    return dg.ScheduleDefinition(
        name=f"{job.name}_schedule",
        job=job,
        cron_schedule=timing.cron,
        execution_timezone=timing.timezone,
        default_status=dg.DefaultScheduleStatus.RUNNING if timing.enabled else dg.DefaultScheduleStatus.STOPPED,
    )
