"""A model's files, stored twice: in its folder and in MLflow."""

import logging
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from lance_pipeline.errors import DamagedError, InputError, ServiceError
from lance_pipeline.orchestration.commands import materialize_command
from lance_pipeline.orchestration.records import Model
from lance_pipeline.orchestration.tracking.mlflow_errors import is_away
from lance_pipeline.orchestration.tracking.tracked_run import TrackedRun
from lance_pipeline.storage.whole_files import whole_file

if TYPE_CHECKING:
    from torch import nn

    from lance_pipeline.training.weights import ModelCard

_logger = logging.getLogger(__name__)


def load_or_restore(key: dg.AssetKey, model: Model, run: TrackedRun) -> "tuple[nn.Module, ModelCard]":
    """Load and verify a recorded model; damaged or missing files are restored from MLflow's copy.

    Args:
        key: key of the model's asset.
        model: the model's record.
        run: the MLflow run of its training.

    Raises:
        InputError: neither the files nor MLflow's copy are the trained ones, or they cannot be read.
        ServiceError: the files are damaged, and MLflow is away.
    """
    from mlflow.exceptions import MlflowException

    from lance_pipeline.training.weights import CARD_FILE, WEIGHTS_FILE, load_model

    folder = Path(model.folder)
    try:
        return load_model(folder, model.sha256)
    except DamagedError as damaged:
        with tempfile.TemporaryDirectory() as work:
            try:
                copy = run.download_model(Path(work))
                loaded = load_model(copy, model.sha256)
                for name in (WEIGHTS_FILE, CARD_FILE):
                    with whole_file(folder / name) as path:
                        shutil.copyfile(copy / name, path)
            except (MlflowException, OSError, InputError) as error:
                failure = f"{damaged} The copy in MLflow run {run.run_id} cannot be used either: {error}"
                if is_away(error):
                    raise ServiceError(f"{failure} See that the server is up.") from error
                raise DamagedError(f"{failure} Run: {materialize_command(key)}") from error
        _logger.warning("%s MLflow run %s had a copy, from which they are restored.", damaged, run.run_id)
        return loaded
