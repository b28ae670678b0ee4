"""The resources of the code location, by their keys."""

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
"""By the fields of ``LanceStore``."""


def default_resources(lance_store: LanceStore | None = None) -> dict[str, Any]:
    """``gpu``, ``mlflow``, ``lance_store`` and the IO manager, set by the environment.

    ``LANCE_PIPELINE_DEVICE`` and ``LANCE_PIPELINE_PRECISION`` name device (several with commas between them) and
    precision, ``LANCE_PIPELINE_THREADS`` and ``LANCE_PIPELINE_EXCLUSIVE`` how trainings share it,
    ``LANCE_PIPELINE_MLFLOW_UI`` the address that links to MLflow start with,
    ``LANCE_PIPELINE_MLFLOW_UNREACHABLE=continue`` has a training begin without the server, and
    ``LANCE_PIPELINE_<NAME>_FOLDER`` moves one of the folders of ``LanceStore``. Variables are read where the values are
    used; which of them are set, when this is called.

    Args:
        lance_store: in place of the one that the environment sets; the IO manager keeps its records there too.
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
        # The variable itself, where one sets it.
        "io_manager": RecordIOManager(folder=vars(store)["records"]),
    }


def _given(variables: dict[str, str]) -> dict[str, Any]:
    """The variables that are set, by the fields that they set."""
    return {field: dg.EnvVar(name) for field, name in variables.items() if os.environ.get(name)}
