"""The resources of the code location, by their keys."""

import os
from typing import Any

from lance_pipeline.orchestration.lance_store import LanceStore
from lance_pipeline.orchestration.record_io import RecordIOManager
from lance_pipeline.orchestration.runtime.gpu import GpuResource
from lance_pipeline.orchestration.tracking.mlflow_tracking import MlflowTracking

DEVICE_VARIABLE = "LANCE_PIPELINE_DEVICE"
PRECISION_VARIABLE = "LANCE_PIPELINE_PRECISION"
MLFLOW_UNREACHABLE_VARIABLE = "LANCE_PIPELINE_MLFLOW_UNREACHABLE"
MLFLOW_UI_VARIABLE = "LANCE_PIPELINE_MLFLOW_UI"


def default_resources() -> dict[str, Any]:
    """``gpu``, ``mlflow``, ``lance_store`` and the IO manager, set by the environment.

    ``LANCE_PIPELINE_DEVICE`` and ``LANCE_PIPELINE_PRECISION`` name device (several with commas between them)
    and precision, ``LANCE_PIPELINE_MLFLOW_UI`` the address that links to MLflow start with, and
    ``LANCE_PIPELINE_MLFLOW_UNREACHABLE=continue`` has a training begin without the server. ``MLFLOW_TRACKING_URI``,
    which may hold a password, is no configuration: the resource reads it where it connects.
    """

    def variable(name: str) -> str | None:
        return os.environ.get(name) or None

    return {
        "gpu": GpuResource(
            device=variable(DEVICE_VARIABLE) or "auto", precision=variable(PRECISION_VARIABLE) or "auto"
        ),
        "mlflow": MlflowTracking(
            ui_url=variable(MLFLOW_UI_VARIABLE),
            on_unreachable=variable(MLFLOW_UNREACHABLE_VARIABLE) or "fail",
        ),
        "lance_store": LanceStore(),
        "io_manager": RecordIOManager(),
    }
