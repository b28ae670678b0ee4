"""MLflow as a resource, without MLflow's global state."""

import os
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from filelock import FileLock
from pydantic import Field

from lance_pipeline.errors import InputError, Stopped
from lance_pipeline.orchestration.paths import data_root, make_folder
from lance_pipeline.orchestration.records import LanceVersion

if TYPE_CHECKING:
    from mlflow import MlflowClient

# MLflow refuses a digest of more characters.
_DIGEST_LENGTH = 36
_ANSWER_SECONDS = 10
DEFAULT_UI = "http://127.0.0.1:5000"


class TrackedRun:
    """An MLflow run to write to."""

    def __init__(self, client: "MlflowClient", run_id: str, url: str) -> None:
        self.run_id, self.url = run_id, url
        self._client = client

    def log_params(self, params: dict[str, Any]) -> None:
        """Log parameters, each as text."""
        from mlflow.entities import Param

        self._client.log_batch(self.run_id, params=[Param(key, str(value)) for key, value in params.items()])

    def log_metrics(self, metrics: dict[str, float], step: int = 0, ended: float | None = None) -> None:
        """Log metrics at one step, in one call.

        Sent again with the same time, they are not doubled.

        Args:
            metrics: finite values by their names.
            step: such as the epoch.
            ended: when they were measured, as a Unix time; now when None.
        """
        from mlflow.entities import Metric

        at = int((time.time() if ended is None else ended) * 1000)
        self._client.log_batch(self.run_id, metrics=[Metric(key, value, at, step) for key, value in metrics.items()])

    def log_dataset(self, name: str, context: str, data: LanceVersion) -> None:
        """Log one version of a Lance dataset as an input of the run."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        source = data.model_dump_json()
        dataset = Dataset(name=name, digest=data.fingerprint[:_DIGEST_LENGTH], source_type="lance", source=source)
        tags = {
            "mlflow.data.context": context,
            "lance.version": str(data.version),
            "lance.fingerprint": data.fingerprint,
        }
        entity = DatasetInput(dataset=dataset, tags=[InputTag(key, value) for key, value in tags.items()])
        self._client.log_inputs(self.run_id, datasets=[entity])

    def log_file(self, data: bytes, name: str) -> None:
        """Log bytes as an artifact of the given path."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / Path(name).name
            path.write_bytes(data)
            parent = str(Path(name).parent)
            self._client.log_artifact(self.run_id, str(path), None if parent == "." else parent)

    def log_folder(self, folder: Path, name: str) -> None:
        """Log a folder's files as artifacts below ``name``."""
        self._client.log_artifacts(self.run_id, str(folder), name)


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
        try:
            if self.remote:
                # At once, where MLflow's own client would try for minutes.
                with urllib.request.urlopen(f"{self.uri}/health", timeout=_ANSWER_SECONDS):  # noqa: S310 - as configured
                    return MlflowClient(self.uri)
            # Two processes that make one sqlite database at once would break it.
            with self._lock():
                client = MlflowClient(self.uri)
                client.search_experiments(max_results=1)
                return client
        except (MlflowException, OSError) as error:
            raise InputError(
                f"MLflow at {self.uri} cannot be used: {error}. Start the server, or correct MLFLOW_TRACKING_URI."
            ) from error

    def url(self, experiment_id: str, run_id: str) -> str:
        """The run's page in the MLflow UI, which without the last words shows what language models need."""
        ui = self.ui_url or (self.uri if self.remote else DEFAULT_UI)
        return f"{ui}/#/experiments/{experiment_id}/runs/{run_id}?workflowType=machine_learning"

    @contextmanager
    def training_run(
        self, experiment: str, name: str, tags: dict[str, str], resume: str | None = None
    ) -> Iterator[TrackedRun]:
        """A run, which ends FINISHED, or FAILED with an error, or KILLED when it was stopped.

        Args:
            experiment: made where it is missing.
            name: of a new run.
            tags: of the run.
            resume: the run to go on with; a new one when None, or when this server does not have it any more.

        Raises:
            InputError: the tracking server cannot be reached.
        """
        from mlflow.exceptions import MlflowException

        client = self.client()
        experiment_id = self._experiment(client, experiment)
        run_id = resume if resume is not None and self._is_there(client, resume) else None
        if run_id is None:
            run_id = client.create_run(experiment_id, run_name=name).info.run_id
        else:
            client.update_run(run_id, status="RUNNING")
        for key, value in tags.items():
            client.set_tag(run_id, key, value)
        try:
            yield TrackedRun(client, run_id, self.url(experiment_id, run_id))
        except BaseException as error:
            failed = isinstance(error, Exception) and not isinstance(error, Stopped)
            try:
                client.set_terminated(run_id, "FAILED" if failed else "KILLED")
            except MlflowException as unreachable:
                # What ended the training is what its owner has to know.
                error.add_note(f"MLflow could not be told: {unreachable}")
            raise
        client.set_terminated(run_id, "FINISHED")

    def abandon(self, run_id: str) -> None:
        """Mark a run as KILLED that nobody will go on with, where it still counts as running."""
        client = self.client()
        if self._is_there(client, run_id) and client.get_run(run_id).info.status == "RUNNING":
            client.set_terminated(run_id, "KILLED")

    def is_reachable(self) -> bool:
        """Whether the tracking server answers now."""
        try:
            self.client()
        except InputError:
            return False
        return True

    @staticmethod
    def _is_there(client: "MlflowClient", run_id: str) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            return client.get_run(run_id).info.lifecycle_stage == "active"
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise

    def existing_run(self, run_id: str) -> TrackedRun:
        """A run that has ended, to add to.

        Raises:
            InputError: the tracking server cannot be reached or does not know the run.
        """
        from mlflow.exceptions import MlflowException

        client = self.client()
        try:
            experiment_id = client.get_run(run_id).info.experiment_id
        except MlflowException as error:
            raise InputError(
                f"MLflow at {self.uri} does not know the model's run {run_id}: {error}. Materialize the model again, "
                "or correct MLFLOW_TRACKING_URI."
            ) from error
        return TrackedRun(client, run_id, self.url(experiment_id, run_id))

    def _experiment(self, client: "MlflowClient", name: str) -> str:
        """The experiment's id; made where it was missing."""
        with self._lock():
            if experiment := client.get_experiment_by_name(name):
                return experiment.experiment_id
            location = None if self.tracking_uri else (self._folder / "artifacts" / name).as_uri()
            return client.create_experiment(name, artifact_location=location)
