"""MLflow as a resource, without MLflow's global state."""

import errno
import logging
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import dagster as dg
from pydantic import ConfigDict, Field, field_validator

from lance_pipeline.errors import ExplainedError, InputError, ServiceError, Stopped
from lance_pipeline.orchestration.paths import DATA_VARIABLE, data_root, make_folder
from lance_pipeline.orchestration.runtime.databases import require_sound_databases
from lance_pipeline.orchestration.settled import Settled
from lance_pipeline.orchestration.tracking.mlflow_errors import is_away, raised_by_mlflow
from lance_pipeline.orchestration.tracking.run_names import create_numbered_run
from lance_pipeline.orchestration.tracking.tracked_run import TrackedRun
from lance_pipeline.orchestration.ui.address import MLFLOW_PATH
from lance_pipeline.storage.addresses import Address
from lance_pipeline.storage.full_disk import full_disk, is_full_disk
from lance_pipeline.storage.locking import locked_file
from lance_pipeline.storage.redacted_errors import redacted
from lance_pipeline.storage.redaction import redact

if TYPE_CHECKING:
    from mlflow import MlflowClient

_logger = logging.getLogger(__name__)
TRAINING_TAG = "training_id"
# A tag of MLflow's own: it selects the pages for training rather than those for language models.
_KIND = ("mlflow.experimentKind", "custom_model_development")
TRACKING_VARIABLE = "MLFLOW_TRACKING_URI"
# Errors of the local disk, as opposed to server errors.
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
# Of an id that belongs to no run, or is none.
_UNKNOWN = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


def place_tag(checkpoint_folder: Path) -> dict[str, str]:
    """The tag that identifies runs of one data folder: other hosts may use the same tracking server."""
    return {"checkpoint_folder": f"{socket.gethostname()}:{checkpoint_folder}"}


class TrainingRun:
    """The MLflow run of a training, opened as soon as the server is reachable.

    The arguments are those of ``MlflowTracking.training_run``.
    """

    def __init__(
        self,
        mlflow: "MlflowTracking",
        experiment: str,
        tags: dict[str, str],
        describe: Callable[[TrackedRun], None],
        *,
        trial: bool = False,
    ) -> None:
        self.mlflow = mlflow
        self._experiment, self._tags, self._describe, self._trial = experiment, tags, describe, trial
        self._run: TrackedRun | None = None
        self._described = False

    def opened(self) -> TrackedRun:
        """The run, opened if it is not yet.

        Raises:
            InputError: MLflow rejects a request.
            ServiceError: MLflow is away.
        """
        with self.mlflow.clear_errors():
            if self._run is None:
                self._run = self.mlflow.open_training(self._experiment, self._tags, trial=self._trial)
            if not self._described:
                self._describe(self._run)
                self._run.watch_system()
                self._described = True
            return self._run

    def end(self, status: str) -> None:
        """End the run, if it was opened.

        Raises:
            InputError: MLflow rejects the request.
            ServiceError: MLflow is away.
        """
        with self.mlflow.clear_errors():
            if self._run is not None:
                self._run.end(status)


class MlflowTracking(Settled, dg.ConfigurableResource):
    """Experiments and runs on an MLflow tracking server; sqlite and a local folder by default."""

    model_config = ConfigDict(hide_input_in_errors=True)
    at_launch: ClassVar[Mapping[str, Any]] = {"on_unreachable": str, "patience": float}
    secret: ClassVar[frozenset[str]] = frozenset({"tracking_uri"})

    tracking_uri: str | None = Field(
        default=None,
        description="The tracking server or database, without credentials, as it is shown; when unset "
        "MLFLOW_TRACKING_URI, which may have them, or else `mlflow/mlflow.db` in the data folder.",
    )
    ui_url: str | None = Field(
        default=None,
        description="Where people open the MLflow UI; links start with it. When unset the tracking server, "
        f"or for a database {MLFLOW_PATH} below the address of `make ui`.",
    )
    on_unreachable: str = Field(
        default="fail",
        description="What a training does if the server is away at its start: `fail`, and be tried again as `retries` "
        "of the dataset says, or `continue`, and upload all later. Losing the server later never stops a training.",
    )
    patience: float = Field(
        default=60,
        ge=0,
        description="Seconds for which a finished training waits for a server that is away, before it fails and is "
        "tried again, which takes seconds.",
    )

    @field_validator("on_unreachable")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in ("fail", "continue"):
            raise ValueError(f"{value!r} is neither `fail` nor `continue`; see LANCE_PIPELINE_MLFLOW_UNREACHABLE")
        return value

    @field_validator("tracking_uri")
    @classmethod
    def _without_secrets(cls, value: str | None) -> str | None:
        if value is not None and str(Address(value)) != value:
            raise ValueError(
                f"{Address(value)} contains credentials, and Dagster shows and stores configuration. Set the "
                "environment variable MLFLOW_TRACKING_URI instead, or take it from another one: "
                '`tracking_uri=dg.EnvVar("…")`'
            )
        return value

    @field_validator("ui_url")
    @classmethod
    def _shown(cls, value: str | None) -> str | None:
        return value and str(Address(value))

    @property
    def _folder(self) -> Path:
        return data_root() / "mlflow"

    @property
    def _given(self) -> str | None:
        return self.tracking_uri or os.environ.get(TRACKING_VARIABLE) or None

    @property
    def address(self) -> Address:
        """The tracking server or database in use."""
        # A trailing slash in a server's address would be doubled in the addresses below it.
        return Address((self._given or f"sqlite:///{self._folder / 'mlflow.db'}").rstrip("/"))

    @property
    def remote(self) -> bool:
        """Whether the tracking address is a server's."""
        return str(self.address).startswith(("http://", "https://"))

    @contextmanager
    def clear_errors(self) -> Iterator[None]:
        """Replace errors from MLflow and its stores by one that names the MLflow in use and what to do.

        Errors that other code in the context raises are left alone.

        Raises:
            InputError: MLflow or one of its stores raised an error.
            ServiceError: the server or the database is away.
        """
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except (MlflowException, SQLAlchemyError, OSError, ImportError) as error:
            if not raised_by_mlflow(error):
                raise
            if is_full_disk(error, self._folder):
                raise full_disk(self._folder) from redacted(error)
            todo = "Start the server, or correct MLFLOW_TRACKING_URI"
            if not self._given:
                require_sound_databases(self._folder / "mlflow.db")
                todo = f"See that {self._folder} may be written"
            if isinstance(error, OSError) and error.errno in _REFUSED:
                todo = "Give yourself the right to write there"
            failure = f"MLflow at {self.address} cannot be used: {redact(error)}. {todo}"
            if is_away(error):
                raise ServiceError(f"{failure}.") from redacted(error)
            raise InputError(f"{failure}, then materialize again.") from redacted(error)

    def _lock(self) -> AbstractContextManager[object]:
        """Lock for creating the sqlite database, which two processes at once would break; a server needs none."""
        return nullcontext() if self.remote else locked_file(make_folder(self._folder) / ".lock", DATA_VARIABLE)

    def client(self) -> "MlflowClient":
        """A client whose tracking server responds, or whose database exists.

        Raises:
            InputError: MLflow rejects the request.
            ServiceError: MLflow is away.
        """
        from mlflow import MlflowClient

        if not self._given:
            require_sound_databases(self._folder / "mlflow.db")
        with self.clear_errors(), self._lock():
            client = MlflowClient(self.client_uri())
            client.search_experiments(max_results=1)
            return client

    def client_uri(self) -> str:
        """The address for MLflow; a server's user and password are passed in environment variables, as MLflow expects.

        Raises:
            InputError: the end of the user part is ambiguous.
        """
        address = self.address
        user, password = address.user()
        if not (self.remote and user and password):
            return address.full()
        os.environ.setdefault("MLFLOW_TRACKING_USERNAME", user)
        os.environ.setdefault("MLFLOW_TRACKING_PASSWORD", password)
        return address.without_user()

    def require_start(self) -> None:
        """Check that a training may start.

        Raises:
            InputError: MLflow rejects the request.
            ServiceError: MLflow is away, and trainings are set to fail then.
        """
        if self.on_unreachable == "fail":
            self.client()

    @property
    def ui(self) -> str:
        """Where people open the MLflow UI: an address, or a path below the UI that shows the link."""
        return self.ui_url or (str(self.address) if self.remote else MLFLOW_PATH)

    def url(self, experiment_id: str, run_id: str) -> str:
        """The run's page in the MLflow UI; the last parameter avoids the view for language models."""
        return f"{self.ui}/#/experiments/{experiment_id}/runs/{run_id}?workflowType=machine_learning"

    @contextmanager
    def training_run(
        self,
        experiment: str,
        tags: dict[str, str],
        describe: Callable[[TrackedRun], None],
        *,
        trial: bool = False,
    ) -> Iterator[TrainingRun]:
        """Track a training in a run, which ends as FINISHED, FAILED on an error, or KILLED when it was stopped.

        Args:
            experiment: the dataset's experiment; created if missing.
            tags: tags of a new run, including the training's id as `TRAINING_TAG`: an existing run of the training is
                resumed.
            describe: logs to the run what is known from the beginning.
            trial: whether the training belongs to no asset.

        Raises:
            InputError: the end of the training cannot be reported to MLflow.
        """
        run = TrainingRun(self, experiment, tags, describe, trial=trial)
        try:
            yield run
        except BaseException as error:
            failed = isinstance(error, Exception) and not isinstance(error, Stopped)
            try:
                run.end("FAILED" if failed else "KILLED")
            except ExplainedError as untold:
                # Users first need to see the error that ended the training.
                _logger.warning("The MLflow run still counts as running: %s", untold)
            raise
        run.end("FINISHED")

    def open_training(self, experiment: str, tags: dict[str, str], *, trial: bool = False) -> TrackedRun:
        """The run of a training, marked as running; created if missing.

        Raises:
            InputError: MLflow rejects a request, or cannot store models.
            ServiceError: MLflow is away.
        """
        from mlflow.exceptions import MlflowException

        client = self.client()
        experiment_id = self._experiment(client, experiment)
        try:
            client.search_logged_models([experiment_id], max_results=1)
        except MlflowException as error:
            if is_away(error):
                raise
            raise InputError(
                f"MLflow at {self.address} does not keep models as version 3 does: {redact(error)}. Expected a server "
                "of MLflow 3: pip install -U mlflow, there."
            ) from redacted(error)
        # The search skips deleted runs.
        found = client.search_runs([experiment_id], f"tags.{TRAINING_TAG} = '{tags[TRAINING_TAG]}'", max_results=1)
        if found:
            client.update_run(found[0].info.run_id, status="RUNNING")
            run = found[0]
        else:
            with locked_file(make_folder(self._folder) / ".numbers.lock", DATA_VARIABLE):
                run = create_numbered_run(client, experiment_id, experiment, tags, trial=trial)
        return TrackedRun(client, run, self.url(experiment_id, run.info.run_id))

    def existing_run(self, run_id: str) -> TrackedRun:
        """An ended run, to read from or add to.

        Raises:
            InputError: MLflow does not know the run.
            ServiceError: MLflow is away.
        """
        from mlflow.exceptions import MlflowException

        client = self.client()
        with self.clear_errors():
            try:
                run = client.get_run(run_id)
            except MlflowException as error:
                if error.error_code not in _UNKNOWN:
                    raise
                raise InputError(
                    f"MLflow at {self.address} does not know the run {run_id}: {redact(error)}. Correct "
                    "MLFLOW_TRACKING_URI, or materialize the model again."
                ) from redacted(error)
        return TrackedRun(client, run, self.url(run.info.experiment_id, run_id))

    def _experiment(self, client: "MlflowClient", name: str) -> str:
        """The experiment's id; the experiment is created if missing.

        Raises:
            InputError: the experiment was deleted.
        """
        with self._lock():
            if experiment := client.get_experiment_by_name(name):
                if experiment.lifecycle_stage == "deleted":
                    raise InputError(
                        f"the experiment {name!r} was deleted from MLflow at {self.address}. Restore it "
                        f"(with MLFLOW_TRACKING_URI set to that: mlflow experiments restore --experiment-id "
                        f"{experiment.experiment_id}), then materialize again."
                    )
                if _KIND[0] not in experiment.tags:
                    client.set_experiment_tag(experiment.experiment_id, *_KIND)
                return experiment.experiment_id
            location = None if self._given else (self._folder / "artifacts" / name).as_uri()
            return client.create_experiment(name, artifact_location=location, tags=dict([_KIND]))
