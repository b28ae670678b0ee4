"""What log, asset page and MLflow tell of a training while it runs."""

import time
from typing import TYPE_CHECKING, Any

import dagster as dg

from lance_pipeline.errors import InputError
from lance_pipeline.orchestration.mlflow_tracking import TrainingRun
from lance_pipeline.orchestration.progress import Throttle, clock
from lance_pipeline.orchestration.tracked_run import TrackedRun

if TYPE_CHECKING:
    from lance_pipeline.training.history import Epoch
    from lance_pipeline.training.loop import Step

_TRY = 2


class TrainingReport:
    """Tells log, asset page and MLflow how the training goes.

    MLflow is sent what a checkpoint on the disk covers, with the times that stand there: what an interrupted run sent
    before is then the same, and not doubled. While the server is away, the epochs wait in the checkpoint.
    """

    def __init__(self, context: dg.AssetExecutionContext, run: TrainingRun) -> None:
        self._context, self._run = context, run
        self._throttle = Throttle()
        self._delivered = 0
        self._away = False

    def on_epoch(self, epoch: "Epoch") -> None:
        """A line in the log, and an observation on the asset."""
        self._context.log.info(
            f"Epoch {epoch.number}/{epoch.of}: loss {epoch.train_loss:.3f}, val accuracy {epoch.val_accuracy:.2%}, "
            f"{epoch.images_per_second:.0f} images/s, {epoch.data_wait:.1%} waiting for data, {clock(epoch.duration)}, "
            f"{clock(epoch.seconds_left)} left"
        )
        progress = {"epoch": epoch.number, "epochs": epoch.of, "seconds_left": epoch.seconds_left}
        self._context.log_event(dg.AssetObservation(self._context.asset_key, metadata=progress | epoch.figures()))

    def on_step(self, step: "Step") -> None:
        """A line in the log every ten seconds."""
        if self._throttle.ready():
            self._context.log.info(
                f"Epoch {step.epoch}, batch {step.batch}/{step.batches}: loss {step.loss.item():.3f}, "
                f"{clock(step.seconds_left)} left"
            )

    def on_saved(self, state: dict[str, Any]) -> None:
        """Send MLflow what is now safe."""
        from lance_pipeline.training.history import Epoch

        self._deliver([Epoch(**epoch) for epoch in state["history"]])

    def settled(self, history: list["Epoch"]) -> TrackedRun:
        """The MLflow run, which lacks nothing now; the server is waited for for a while.

        Raises:
            InputError: it cannot be reached.
        """
        deadline = time.monotonic() + self._run.mlflow.patience
        while True:
            run = self._deliver(history)
            if run is not None:
                return run
            if time.monotonic() > deadline:
                raise InputError(
                    f"the training is finished, but MLflow at {self._run.mlflow.uri} cannot be reached: "
                    f"{len(history) - self._delivered} of {len(history)} epochs are not there yet. Nothing is lost: "
                    "once the server runs, materialize again, which goes on from the last checkpoint and takes seconds."
                )
            time.sleep(_TRY)

    def _deliver(self, history: list["Epoch"]) -> TrackedRun | None:
        """Send the epochs that MLflow lacks; the run if it has all now."""
        from mlflow.exceptions import MlflowException

        try:
            run = self._run.opened()
            if run is not None:
                for epoch in history[self._delivered :]:
                    run.log_metrics(epoch.figures(), step=epoch.number, ended=epoch.ended)
                    self._delivered += 1
        except (MlflowException, InputError) as error:
            self._context.log.warning(f"MLflow did not take the metrics: {error}")
            run = None
        if run is None and not self._away:
            self._context.log.warning(
                f"MLflow at {self._run.mlflow.uri} cannot be reached; the training goes on, its metrics are sent later"
            )
        if run is not None and self._away:
            self._context.log.info(f"MLflow at {self._run.mlflow.uri} is there again, and has all metrics")
            run.watch_system()
        self._away = run is None
        return run
