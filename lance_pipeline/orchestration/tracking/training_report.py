"""Reports on a running training to the log, the asset page and MLflow."""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Self

import dagster as dg

from lance_pipeline.errors import ExplainedError, InputError, ServiceError, Stopped
from lance_pipeline.orchestration.runtime.progress import Throttle, clock
from lance_pipeline.orchestration.tracking.mlflow_tracking import TrainingRun
from lance_pipeline.orchestration.tracking.tracked_run import TrackedRun
from lance_pipeline.orchestration.tracking.training_log import tracked_figures

if TYPE_CHECKING:
    from lance_pipeline.training.callbacks import StepProgress
    from lance_pipeline.training.history import BestBy, Epoch

_TRY = 1


class TrainingReport:
    """Reports a training's progress to the log, the asset page and MLflow.

    MLflow only receives epochs that a checkpoint on disk covers, with the times from the checkpoint: a resumed run then
    sends the same points as the interrupted one, and none is duplicated. A thread sends them, so the training does not
    wait; during an outage of the server, the epochs wait in the checkpoint.

    Args:
        log: log of the step that trains.
        observe: called with the figures of each epoch.
        run: the training's MLflow run.
        best_by: the metric that selects the best epoch.
    """

    def __init__(
        self,
        log: dg.DagsterLogManager,
        observe: Callable[[Mapping[str, Any]], None],
        run: TrainingRun,
        best_by: "BestBy",
    ) -> None:
        self._log, self._observe, self._run = log, observe, run
        self._best_by: BestBy = best_by
        self._throttle = Throttle()
        self._delivered = 0
        self._trouble: ExplainedError | None = None
        self._pending: Future[Any] | None = None

    def __enter__(self) -> Self:
        """Open the run.

        Raises:
            InputError: MLflow rejects a request, and trainings are set to fail then.
            ServiceError: MLflow is away, and trainings are set to fail then.
        """
        if self._run.mlflow.on_unreachable == "fail":
            self._run.opened()
        else:
            self._deliver([])
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mlflow")
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()

    def on_epoch(self, epoch: "Epoch") -> None:
        """Write a line to the log, and pass the figures to the observer."""
        self._log.info(
            f"Epoch {epoch.number}/{epoch.of}: loss {epoch.train_loss:.3f}, val accuracy {epoch.val_accuracy:.2%}, "
            f"{epoch.images_per_second:.0f} images/s, {epoch.data_wait:.1%} waiting for data, {clock(epoch.duration)}, "
            f"{clock(epoch.seconds_left)} left"
        )
        self._observe({"epoch": epoch.number, "epochs": str(epoch.of)} | epoch.figures())

    def on_step(self, step: "StepProgress") -> None:
        """Write a line to the log every ten seconds."""
        if self._throttle.ready():
            left = "" if step.seconds_left is None else f", {clock(step.seconds_left)} left"
            place = f"Epoch {step.epoch}/{step.epochs}, batch {step.batch}/{step.batches}"
            self._log.info(f"{place}: loss {step.loss.item():.3f}{left}")

    def on_saved(self, state: dict[str, Any]) -> None:
        """Start sending what is now saved to MLflow, unless the previous transfer is still running."""
        from lance_pipeline.training.history import read_history

        if self._pending is None or self._pending.done():
            if self._pending is not None:
                # Raises any unexpected error of the previous transfer.
                self._pending.result()
            self._pending = self._thread.submit(self._deliver, read_history(state["history"]))

    def settled(self, history: list["Epoch"], stop: Callable[[], str | None]) -> TrackedRun:
        """The MLflow run with all epochs; waits for an unreachable server for a limited time.

        Args:
            history: all epochs.
            stop: polled while waiting; a returned reason ends the wait.

        Raises:
            InputError: MLflow rejects the epochs.
            ServiceError: MLflow stays away.
            Stopped: ``stop`` returned a reason.
        """
        deadline = time.monotonic() + self._run.mlflow.patience
        while not (run := self._thread.submit(self._deliver, history).result()):
            if reason := stop():
                raise Stopped(reason)
            if time.monotonic() > deadline:
                raise (InputError if isinstance(self._trouble, InputError) else ServiceError)(
                    f"the training is finished, but {len(history) - self._delivered} of {len(history)} epochs are not "
                    f"in MLflow yet: {self._trouble} Nothing is lost: materialized again, it resumes from the last "
                    "checkpoint within seconds."
                )
            time.sleep(_TRY)
        return run

    def _deliver(self, history: list["Epoch"]) -> TrackedRun | None:
        """Send the epochs that MLflow lacks; returns the run once it has all of them, otherwise None."""
        from lance_pipeline.training.history import best_of

        try:
            run = self._run.opened()
            with self._run.mlflow.clear_errors():
                for epoch in history[self._delivered :]:
                    best = {"best_val_accuracy": best_of(history[: epoch.number], self._best_by).val_accuracy}
                    run.log_metrics(tracked_figures(epoch) | best, step=epoch.number, ended=epoch.ended)
                    self._delivered += 1
        except ExplainedError as trouble:
            if self._trouble is None:
                self._log.warning(f"{trouble} Training continues; metrics will be uploaded later.")
            self._trouble = trouble
            return None
        if self._trouble is not None:
            self._log.info("MLflow is there again, and has all metrics")
        self._trouble = None
        return run
