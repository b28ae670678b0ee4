"""Retraining: a job, and a schedule where one is asked for."""

import dagster as dg

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
    if retrain is None:
        return dg.Definitions(jobs=[job])
    schedule = dg.ScheduleDefinition(
        name=f"{name}_schedule",
        job=job,
        cron_schedule=retrain.cron,
        execution_timezone=retrain.timezone,
        default_status=dg.DefaultScheduleStatus.RUNNING if retrain.enabled else dg.DefaultScheduleStatus.STOPPED,
    )
    return dg.Definitions(jobs=[job], schedules=[schedule])
