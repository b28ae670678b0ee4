"""Jobs and schedules for retraining and maintenance."""

import dagster as dg

from lance_pipeline.orchestration.attributes import Maintenance, Retrain
from lance_pipeline.orchestration.dataset import MAINTENANCE_GROUP, Dataset


def build_retraining(dataset: Dataset) -> dg.Definitions:
    """The job ``<dataset>_retrain`` for the whole graph, and, if configured, its schedule."""
    name = f"{dataset.name}_retrain"
    job = dg.define_asset_job(
        name,
        selection=dg.AssetSelection.groups(dataset.name),
        description=f"Ingest {dataset.name} again, train from scratch and evaluate.",
    )
    retrain = dataset.attributes.retrain
    schedules = []
    if retrain is not None:
        schedule = dg.ScheduleDefinition(
            name=f"{name}_schedule",
            job=job,
            cron_schedule=retrain.cron,
            execution_timezone=retrain.timezone,
            default_status=_status(retrain),
        )
        schedules.append(schedule)
    return dg.Definitions(jobs=[job], schedules=schedules)


def build_maintenance_job() -> dg.Definitions:
    """The job ``maintenance`` for all datasets and its schedule, once per code location and beside its resources."""
    job = dg.define_asset_job(
        "maintenance",
        selection=dg.AssetSelection.groups(MAINTENANCE_GROUP),
        description="Remove old models and runs of all datasets, compact their Lance tables and remove old versions.",
    )
    timing = Maintenance()
    schedule = dg.ScheduleDefinition(
        name="maintenance_schedule",
        job=job,
        cron_schedule=timing.cron,
        execution_timezone=timing.timezone,
        description="Maintenance of all datasets.",
    )
    return dg.Definitions(jobs=[job], schedules=[schedule])


def build_own_maintenance(dataset: Dataset) -> dg.Definitions:
    """The schedule ``<dataset>_maintenance_schedule``, if the dataset configures its own."""
    timing, key = dataset.attributes.maintenance, dataset.key("maintenance")
    if not timing.has_own_schedule:
        return dg.Definitions()
    schedule = dg.ScheduleDefinition(
        name=f"{dataset.name}_maintenance_schedule",
        target=dg.AssetSelection.assets(key),
        cron_schedule=timing.cron,
        execution_timezone=timing.timezone,
        default_status=_status(timing),
        description=f"Maintenance of {dataset.name} alone.",
    )
    return dg.Definitions(schedules=[schedule])


def _status(timing: Retrain | Maintenance) -> dg.DefaultScheduleStatus:
    return dg.DefaultScheduleStatus.RUNNING if timing.enabled else dg.DefaultScheduleStatus.STOPPED
