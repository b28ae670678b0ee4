"""The resources of the code location, by their keys."""

import os
from typing import Any

from lance_pipeline.orchestration.gpu import GpuResource
from lance_pipeline.orchestration.lance_store import LanceStore
from lance_pipeline.orchestration.mlflow_tracking import MlflowTracking
from lance_pipeline.orchestration.record_io import RecordIOManager

DEVICE_VARIABLE = "LANCE_PIPELINE_DEVICE"
MLFLOW_UI_VARIABLE = "LANCE_PIPELINE_MLFLOW_UI"


def default_resources() -> dict[str, Any]:
    """``gpu``, ``mlflow``, ``lance_store`` and the IO manager, set by the environment.

    ``LANCE_PIPELINE_DEVICE`` names the device, ``MLFLOW_TRACKING_URI`` another tracking server,
    ``LANCE_PIPELINE_MLFLOW_UI`` the address that links to MLflow start with.
    """
    environment = os.environ
    ui = {"ui_url": environment[MLFLOW_UI_VARIABLE]} if MLFLOW_UI_VARIABLE in environment else {}
    return {
        "gpu": GpuResource(device=environment.get(DEVICE_VARIABLE, "auto")),
        "mlflow": MlflowTracking(tracking_uri=environment.get("MLFLOW_TRACKING_URI") or None, **ui),
        "lance_store": LanceStore(),
        "io_manager": RecordIOManager(),
    }
