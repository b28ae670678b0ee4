"""The resources of the code location, by key."""

import os
from typing import Any

import dagster as dg

from lance_pipeline.orchestration.lance_store import LanceStore
from lance_pipeline.orchestration.record_io import RecordIOManager
from lance_pipeline.orchestration.runtime.gpu import GpuResource
from lance_pipeline.orchestration.tracking.mlflow_tracking import TRACKING_VARIABLE, MlflowTracking

DEVICE_VARIABLE = "LANCE_PIPELINE_DEVICE"
PRECISION_VARIABLE = "LANCE_PIPELINE_PRECISION"
MLFLOW_UNREACHABLE_VARIABLE = "LANCE_PIPELINE_MLFLOW_UNREACHABLE"
MLFLOW_UI_VARIABLE = "LANCE_PIPELINE_MLFLOW_UI"
EXCLUSIVE_VARIABLE = "LANCE_PIPELINE_EXCLUSIVE"
THREADS_VARIABLE = "LANCE_PIPELINE_THREADS"
FOLDER_VARIABLES = {
    "models": "LANCE_PIPELINE_MODELS_FOLDER",
    "checkpoints": "LANCE_PIPELINE_CHECKPOINTS_FOLDER",
    "cache": "LANCE_PIPELINE_CACHE_FOLDER",
    "downloads": "LANCE_PIPELINE_DOWNLOADS_FOLDER",
    "records": "LANCE_PIPELINE_RECORDS_FOLDER",
    "reports": "LANCE_PIPELINE_REPORTS_FOLDER",
}
"""The variables that set the folders of ``LanceStore``, by field."""


def default_resources(lance_store: LanceStore | None = None) -> dict[str, Any]:
    """``gpu``, ``mlflow``, ``lance_store`` and the IO manager, configured by environment variables.

    ``LANCE_PIPELINE_DEVICE`` and ``LANCE_PIPELINE_PRECISION`` set the device (several separated by commas) and the
    precision, ``LANCE_PIPELINE_THREADS`` and ``LANCE_PIPELINE_EXCLUSIVE`` how trainings share it,
    ``LANCE_PIPELINE_MLFLOW_UI`` the base address of links to MLflow. ``LANCE_PIPELINE_MLFLOW_UNREACHABLE=continue``
    starts training without the server, and ``LANCE_PIPELINE_<NAME>_FOLDER`` moves one of the folders of ``LanceStore``.
    The values of variables are read when they are used; this function only checks which variables are set.

    Args:
        lance_store: replaces the one set by the environment; the IO manager stores its records there too.
    """
    store = lance_store or LanceStore(**_given(FOLDER_VARIABLES))
    return {
        "gpu": GpuResource(
            **_given({"device": DEVICE_VARIABLE, "precision": PRECISION_VARIABLE, "exclusive": EXCLUSIVE_VARIABLE}),
            threads=dg.EnvVar.int(THREADS_VARIABLE) if os.environ.get(THREADS_VARIABLE) else None,
        ),
        "mlflow": MlflowTracking(
            **_given(
                {
                    "tracking_uri": TRACKING_VARIABLE,
                    "ui_url": MLFLOW_UI_VARIABLE,
                    "on_unreachable": MLFLOW_UNREACHABLE_VARIABLE,
                }
            )
        ),
        "lance_store": store,
        # The variable itself, if one sets the field.
        "io_manager": RecordIOManager(folder=vars(store)["records"]),
    }


def _given(variables: dict[str, str]) -> dict[str, Any]:
    """The variables that are set, by field."""
    return {field: dg.EnvVar(name) for field, name in variables.items() if os.environ.get(name)}
