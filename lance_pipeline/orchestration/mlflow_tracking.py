"""MLflow as a resource, without MLflow's global state."""

import os
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
from filelock import FileLock
from pydantic import Field, field_validator

from lance_pipeline.errors import InputError, Stopped
from lance_pipeline.orchestration.paths import data_root, make_folder
from lance_pipeline.orchestration.tracked_run import TrackedRun

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_ANSWER_SECONDS = 10
DEFAULT_UI = "http://127.0.0.1:5000"
TRAINING_TAG = "training_id"


class TrainingRun:
    """The MLflow run of a training, which is opened as soon as the server can be reached.

    Its arguments are those of ``MlflowTracking.training_run``.
    """

    def __init__(
        self,
        mlflow: "MlflowTracking",
        experiment: str,
        name: str,
        training_id: str,
        describe: Callable[[TrackedRun], None],
    ) -> None:
        self.mlflow = mlflow
        self._experiment, self._name, self._training_id, self._describe = experiment, name, training_id, describe
        self._run: TrackedRun | None = None

    def opened(self) -> TrackedRun | None:
        """The run, or None while the server is away."""
        if not self.mlflow.is_reachable():
            return None
        if self._run is None:
            run = self.mlflow.open_training(self._experiment, self._name, self._training_id)
            self._describe(run)
            run.watch_system()
            self._run = run
        return self._run

    def end(self, status: str) -> None:
        """End the run, where there is one."""
        if self._run is not None:
            self._run.end(status)


class MlflowTracking(dg.ConfigurableResource):
    """Experiments and runs on an MLflow tracking server; sqlite and a local folder by default."""

    tracking_uri: str | None = Field(
        default=None, description="The tracking server; `mlflow/mlflow.db` in the data folder when unset."
    )
    ui_url: str | None = Field(
        default=None,
        description="Where people open the MLflow UI; links start with it. When unset the tracking server, "
        f"or for the database {DEFAULT_UI}.",
    )
    on_unreachable: str = Field(
        default="fail",
        description="What a training does while the server cannot be reached at its start: `fail`, or `continue`, "
        "which tells the server all of it later. One that is lost in the middle is waited for in any case.",
    )

    patience: float = Field(
        default=60, ge=0, description="For how many seconds a finished training waits for a server that is away."
    )

    @field_validator("on_unreachable")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in ("fail", "continue"):
            raise ValueError(f"{value!r} is neither `fail` nor `continue`; see LANCE_PIPELINE_MLFLOW_UNREACHABLE")
        return value

    @property
    def _folder(self) -> Path:
        return data_root() / "mlflow"

    @property
    def uri(self) -> str:
        """The tracking URI in use."""
        # A slash at the end of a server's address would be doubled in the addresses below it.
        return (self.tracking_uri or f"sqlite:///{self._folder / 'mlflow.db'}").rstrip("/")

    @property
    def remote(self) -> bool:
        """Whether the tracking URI is a server's address."""
        return self.uri.startswith(("http://", "https://"))

    def _lock(self) -> FileLock:
        return FileLock(make_folder(self._folder) / ".lock")

    def client(self) -> "MlflowClient":
        """A client, once the tracking database is in place.

        Raises:
            InputError: the tracking server cannot be reached.
        """
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        # Its own default is to try for minutes, in which a training would stand still.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        try:
            if self.remote:
                self._require_answer()
                return MlflowClient(self.uri)
            # Two processes that make one sqlite database at once would break it.
            with self._lock():
                client = MlflowClient(self.uri)
                client.search_experiments(max_results=1)
                return client
        except (MlflowException, OSError) as error:
            raise InputError(
                f"MLflow at {self.uri} cannot be used: {error}. Start the server, or correct MLFLOW_TRACKING_URI; "
                "with LANCE_PIPELINE_MLFLOW_UNREACHABLE=continue a training does not wait for it."
            ) from error

    def _require_answer(self) -> None:
        """At once, where MLflow's own client would try for minutes."""
        with urllib.request.urlopen(f"{self.uri}/health", timeout=_ANSWER_SECONDS):  # noqa: S310 - as configured
            pass

    def is_reachable(self) -> bool:
        """Whether the tracking server answers now; a database is always there."""
        if self.remote:
            try:
                self._require_answer()
            except OSError:
                return False
        return True

    def require_start(self) -> None:
        """See that a training may begin.

        Raises:
            InputError: the server cannot be reached, and the training is to fail then.
        """
        if self.on_unreachable == "fail":
            self.client()

    def url(self, experiment_id: str, run_id: str) -> str:
        """The run's page in the MLflow UI, which without the last words shows what language models need."""
        ui = self.ui_url or (self.uri if self.remote else DEFAULT_UI)
        return f"{ui}/#/experiments/{experiment_id}/runs/{run_id}?workflowType=machine_learning"

    @contextmanager
    def training_run(
        self, experiment: str, name: str, training_id: str, describe: Callable[[TrackedRun], None]
    ) -> Iterator[TrainingRun]:
        """The run of a training, which ends FINISHED, or FAILED with an error, or KILLED when it was stopped.

        Args:
            experiment: made where it is missing.
            name: of a run that is new.
            training_id: a run of this training that is there already goes on.
            describe: logs to the run what is known from the beginning.

        Raises:
            InputError: the tracking server cannot be reached, and the training is to fail then, or it cannot be told
                of the end.
        """
        from mlflow.exceptions import MlflowException

        self.require_start()
        run = TrainingRun(self, experiment, name, training_id, describe)
        run.opened()
        try:
            yield run
            run.end("FINISHED")
        except BaseException as error:
            failed = isinstance(error, Exception) and not isinstance(error, Stopped)
            try:
                run.end("FAILED" if failed else "KILLED")
            except MlflowException as unreachable:
                # What ended the training is what its owner has to know.
                error.add_note(f"MLflow could not be told: {unreachable}")
            if isinstance(error, MlflowException):
                raise InputError(
                    f"MLflow at {self.uri} did not take what the training has to tell: {error}. Nothing is lost: once "
                    "the server runs, materialize again, which goes on from the last checkpoint."
                ) from error
            raise

    def open_training(self, experiment: str, name: str, training_id: str) -> TrackedRun:
        """The run of a training, which counts as running from now on; made where it is missing."""
        client = self.client()
        experiment_id = self._experiment(client, experiment)
        run = _run_of(client, experiment_id, training_id)
        if run is None:
            run = client.create_run(experiment_id, run_name=name, tags={TRAINING_TAG: training_id})
        else:
            client.update_run(run.info.run_id, status="RUNNING")
        return TrackedRun(client, run, self.url(experiment_id, run.info.run_id))

    def abandon(self, experiment: str, training_id: str) -> None:
        """Mark the run as KILLED of a training that nobody will go on with, where it still counts as running."""
        if not self.is_reachable():
            return
        client = self.client()
        run = _run_of(client, self._experiment(client, experiment), training_id)
        if run is not None and run.info.status == "RUNNING":
            client.set_terminated(run.info.run_id, "KILLED")

    def existing_run(self, run_id: str) -> TrackedRun:
        """A run that has ended, to read or to add to.

        Raises:
            InputError: the tracking server cannot be reached or does not know the run.
        """
        from mlflow.exceptions import MlflowException

        client = self.client()
        try:
            run = client.get_run(run_id)
        except MlflowException as error:
            raise InputError(
                f"MLflow at {self.uri} does not know the run {run_id}: {error}. Correct MLFLOW_TRACKING_URI, "
                "or materialize the model again."
            ) from error
        return TrackedRun(client, run, self.url(run.info.experiment_id, run_id))

    def _experiment(self, client: "MlflowClient", name: str) -> str:
        """The experiment's id; made where it was missing."""
        with self._lock():
            if experiment := client.get_experiment_by_name(name):
                return experiment.experiment_id
            location = None if self.tracking_uri else (self._folder / "artifacts" / name).as_uri()
            return client.create_experiment(name, artifact_location=location)


def _run_of(client: "MlflowClient", experiment_id: str, training_id: str) -> "Run | None":
    """The training's run, unless somebody deleted it."""
    runs = client.search_runs([experiment_id], f"tags.{TRAINING_TAG} = '{training_id}'", max_results=1)
    return runs[0] if runs else None
