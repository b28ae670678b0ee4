"""The record of a trial that MLflow stores as a tag of its run."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from lance_pipeline.errors import DamagedError
from lance_pipeline.orchestration.records import LanceVersion, Model, Record
from lance_pipeline.orchestration.tracking.tracked_run import TrackedRun
from lance_pipeline.training.networks import DEFAULT_NETWORK
from lance_pipeline.training.recipe import Recipe

if TYPE_CHECKING:
    from lance_pipeline.orchestration.tracking.mlflow_tracking import MlflowTracking

EXPERIMENT_TAG = "lance_pipeline.experiment"
"""Tag of every run that belongs to no asset."""
TRIAL_TAG = "lance_pipeline.trial"
_PAGE = 200


class Trial(Record):
    """A finished training of an experiment.

    Attributes:
        identity: the digest of the training's identity.
        recipe: the recipe as given.
        model: the name of the network.
        image_size: in pixels.
        train: the split for training.
        val: the split that selected the best epoch.
        val_accuracy: accuracy of the best epoch.
        test_accuracy: accuracy on the test split, if requested.
        epochs: number of epochs trained.
        seconds: duration of these epochs.
        stopped_early: whether the trial fell behind.
    """

    identity: str
    recipe: Recipe
    model: str = DEFAULT_NETWORK
    image_size: int
    train: LanceVersion
    val: LanceVersion
    val_accuracy: float
    test_accuracy: float | None = None
    epochs: int
    seconds: float
    stopped_early: bool = False

    @property
    def candidate(self) -> str:
        """A key that is equal for trials that differ only in their seeds."""
        return self.model_copy(update={"recipe": self.recipe.model_copy(update={"seed": 0})}).model_dump_json(
            include={"recipe", "model", "image_size", "train", "val"}
        )


def run_of(mlflow: "MlflowTracking", model: Model) -> TrackedRun | None:
    """The run of a model; None if it was removed.

    Raises:
        InputError: MLflow is unreachable.
    """
    with mlflow.clear_errors():
        client = mlflow.client()
        experiments = [one.experiment_id for one in client.search_experiments()]
        found = client.search_runs(experiments, f"attributes.run_id = '{model.mlflow_run_id}'", max_results=1)
    return mlflow.existing_run(model.mlflow_run_id) if found else None


def trials_of(mlflow: "MlflowTracking", dataset: str) -> Iterator[tuple[TrackedRun, Trial]]:
    """The trials of a dataset with their runs, the latest first.

    Raises:
        InputError: MLflow is unreachable, or a later version of this package wrote one of the trials.
    """
    client = mlflow.client()
    with mlflow.clear_errors():
        experiment = client.get_experiment_by_name(dataset)
        token = None
        while experiment is not None:
            page = client.search_runs(
                [experiment.experiment_id],
                f"tags.`{EXPERIMENT_TAG}` = 'true' and attributes.status = 'FINISHED'",
                max_results=_PAGE,
                page_token=token,
            )
            for run in page:
                where = f"the tag {TRIAL_TAG} of the MLflow run {run.info.run_id}"
                try:
                    trial = Trial.from_json(run.data.tags.get(TRIAL_TAG, "").encode(), where, "delete that run")
                except DamagedError:
                    # The tag was edited by hand: ignore the trial.
                    continue
                yield TrackedRun(client, run, mlflow.url(run.info.experiment_id, run.info.run_id)), trial
            if not (token := page.token):
                return
