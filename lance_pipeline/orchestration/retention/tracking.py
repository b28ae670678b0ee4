"""Retention in MLflow: what its users keep, and removing runs with their models permanently."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lance_pipeline.orchestration.tracking.mlflow_tracking import TRAINING_TAG, MlflowTracking
from lance_pipeline.orchestration.tracking.tracked_run import PARENT_TAG, local_folder

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run

KEEP_TAG = "lance_pipeline.keep"
"""Tag of an MLflow run or a logged model: the model stays if the tag has any value except ``false``."""
_CHAMPION = "champion"
_MISSING = "RESOURCE_DOES_NOT_EXIST"
_ENDED = ("FAILED", "KILLED")
_PAGE = 1000


class Tracking:
    """The runs of one experiment that were made by trainings of this data folder.

    Args:
        mlflow: gives access to MLflow.
        experiment: the experiment's name.
        place: a tag that only runs of this data folder have.

    Raises:
        InputError: MLflow cannot be reached.
    """

    def __init__(self, mlflow: MlflowTracking, experiment: str, place: dict[str, str]) -> None:
        self._mlflow, self._place = mlflow, place
        self._client: MlflowClient = mlflow.client()
        with mlflow.clear_errors():
            found = self._client.get_experiment_by_name(experiment)
            self._experiment = found.experiment_id if found else None
            self._registered_models = {} if found is None else _registered_models(self._client)

    def why_kept(self, run_id: str) -> str | None:
        """Why MLflow's users want to keep the model of a run; None if nothing says so.

        Raises:
            InputError: MLflow cannot be reached.
        """
        with self._mlflow.clear_errors():
            run = self.find(run_id)
            if run is None:
                return None
            models = self._models(run)
            for model in (None, *models):
                tags = run.data.tags if model is None else model.tags
                if found := _keeping_tag(tags):
                    return f"tagged `{found}` in MLflow"
            for name in (run_id, *(model.model_id for model in models)):
                if name in self._registered_models:
                    return self._registered_models[name]
        return None

    def ended_without_model(self) -> "list[Run]":
        """This data folder's runs that failed or were killed.

        Raises:
            InputError: MLflow cannot be reached.
        """
        with self._mlflow.clear_errors():
            return [run for run in self._own("attributes.status != 'FINISHED'") if run.info.status in _ENDED]

    def in_trash(self, days: float) -> "list[Run]":
        """This data folder's runs that users deleted at least this many days ago; none on a remote server.

        Raises:
            InputError: MLflow's database cannot be read.
        """
        from mlflow.entities import ViewType

        if self._mlflow.remote:
            return []
        with self._mlflow.clear_errors():
            old = set(self._store._get_deleted_runs(int(days * 86_400_000)))  # noqa: SLF001 - as `mlflow gc` does
            return [run for run in self._own("", ViewType.DELETED_ONLY) if run.info.run_id in old] if old else []

    def folders(self, run_id: str) -> list[Path]:
        """The folders of a run's artifacts and models that are on this host.

        Raises:
            InputError: MLflow cannot be reached.
        """
        with self._mlflow.clear_errors():
            run = self.find(run_id)
            return [folder for uri in self._places(run) if (folder := local_folder(uri))] if run else []

    def training_id(self, run_id: str) -> str | None:
        """The id of a run's training."""
        with self._mlflow.clear_errors():
            run = self.find(run_id)
            return run.data.tags.get(TRAINING_TAG) if run else None

    def remove(self, run_id: str) -> None:
        """Remove a run and its models permanently; does nothing if there is no such run.

        A database on this host keeps nothing of them. A server is asked through its API to delete them and the
        artifacts that it serves; it keeps the names until ``mlflow gc`` runs there.

        Raises:
            InputError: MLflow cannot be reached, or refuses.
        """
        with self._mlflow.clear_errors():
            run = self.find(run_id)
            if run is None:
                return
            models = self._models(run)
            # Hide them first and erase them last, so that an interrupted removal can be found again.
            for model in models:
                self._client.delete_logged_model(model.model_id)
            if run.info.lifecycle_stage != "deleted":
                self._client.delete_run(run_id)
            for uri in self._places(run):
                self._remove_artifacts(uri)
            for evaluation in self._evaluations(run):
                self.remove(evaluation.info.run_id)
            if not self._mlflow.remote:
                self._forget(run_id, [model.model_id for model in models])

    def find(self, run_id: str) -> "Run | None":
        """The run, even if users deleted it; None if there is none."""
        from mlflow.exceptions import MlflowException

        try:
            return self._client.get_run(run_id)
        except MlflowException as error:
            if error.error_code == _MISSING:
                return None
            raise

    def _own(self, condition: str, view: int | None = None) -> "Iterator[Run]":
        from mlflow.entities import ViewType

        view = ViewType.ACTIVE_ONLY if view is None else view
        if self._experiment is None:
            return
        token = None
        while True:
            page = self._client.search_runs([self._experiment], condition, view, _PAGE, page_token=token)
            yield from (run for run in page if self._place.items() <= run.data.tags.items())
            token = page.token
            if not token:
                return

    def _models(self, run: "Run") -> "list[LoggedModel]":
        """The run's models, including hidden ones that are not erased yet."""
        info = run.info
        models = list(self._client.search_logged_models([info.experiment_id], f"source_run_id = '{info.run_id}'"))
        outputs = {output.model_id for output in run.outputs.model_outputs} if run.outputs else set()
        hidden = (self._hidden(model_id) for model_id in outputs - {model.model_id for model in models})
        return [*models, *filter(None, hidden)]

    def _evaluations(self, run: "Run") -> "list[Run]":
        """The evaluation runs of the run's model."""
        from mlflow.entities import ViewType

        condition = f"tags.`{PARENT_TAG}` = '{run.info.run_id}'"
        return list(self._client.search_runs([run.info.experiment_id], condition, ViewType.ALL, _PAGE))

    def _places(self, run: "Run") -> list[str]:
        uris = (run.info.artifact_uri, *(model.artifact_location for model in self._models(run)))
        return [uri for uri in uris if uri]

    def _hidden(self, model_id: str) -> "LoggedModel | None":
        from mlflow.exceptions import MlflowException

        try:
            return self._store.get_logged_model(model_id, allow_deleted=True)
        except MlflowException as error:
            if error.error_code == _MISSING:
                return None
            raise

    @property
    def _store(self) -> Any:
        """The store that ``mlflow gc`` uses: the client cannot access deleted entities."""
        from mlflow.tracking._tracking_service.utils import _get_store

        return _get_store(self._mlflow.client_uri())

    def _remove_artifacts(self, uri: str) -> None:
        """Remove artifacts that are on this host or served by the tracking server; other stores stay untouched."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        folder = local_folder(uri)
        if folder is None and not uri.startswith("mlflow-artifacts:"):
            return
        get_artifact_repository(uri, tracking_uri=self._mlflow.client_uri()).delete_artifacts()
        if folder is not None and folder.parent.is_dir() and not any(folder.parent.iterdir()):
            folder.parent.rmdir()

    def _forget(self, run_id: str, model_ids: Iterable[str]) -> None:
        """Erase them from the database like ``mlflow gc``, without the seconds that its command takes."""
        store = self._store
        for model_id in model_ids:
            store._hard_delete_logged_model(model_id)  # noqa: SLF001 - as `mlflow gc` does
        store._hard_delete_run(run_id)  # noqa: SLF001


def _registered_models(client: "MlflowClient") -> dict[str, str]:
    """Reasons to keep registered runs and logged models; current and former champions are registered."""
    kept: dict[str, str] = {}
    token = None
    while True:
        page = client.search_model_versions(max_results=_PAGE, page_token=token)
        for version in page:
            aliases = ", ".join(f"@{alias}" for alias in version.aliases)
            why = f"registered as {version.name} version {version.version}{aliases and f' ({aliases})'}"
            source = (version.source or "").removeprefix("models:/")
            kept |= dict.fromkeys(filter(None, (version.run_id, version.model_id, source)), why)
        token = page.token
        if not token:
            return kept


def _keeping_tag(tags: dict[str, str]) -> str | None:
    """The tag with which a user keeps a model; None if there is none."""
    return next(
        (
            key
            for key, value in tags.items()
            if (key == KEEP_TAG or _CHAMPION in key.lower()) and value.strip().lower() != "false"
        ),
        None,
    )
