"""What MLflow keeps of a trial, as a tag of its run."""

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
"""Of every run that belongs to no asset."""
TRIAL_TAG = "lance_pipeline.trial"
_PAGE = 200


class Trial(Record):
    """A training of an experiment that has ended.

    Attributes:
        identity: the digest of the training's identity.
        recipe: as it was given.
        model: the name of the network.
        image_size: in pixels.
        train: the split that it learned from.
        val: the split that its best epoch was chosen by.
        val_accuracy: of that epoch.
        test_accuracy: where it was asked for.
        epochs: that were trained.
        seconds: that they took.
        stopped_early: whether it fell behind.
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
        """Equal for trials that differ in their seeds only."""
        return self.model_copy(update={"recipe": self.recipe.model_copy(update={"seed": 0})}).model_dump_json(
            include={"recipe", "model", "image_size", "train", "val"}
        )


def run_of(mlflow: "MlflowTracking", model: Model) -> TrackedRun | None:
    """The run of a model; None where its users have removed it.

    Raises:
        InputError: MLflow cannot be reached.
    """
    with mlflow.clear_errors():
        client = mlflow.client()
        experiments = [one.experiment_id for one in client.search_experiments()]
        found = client.search_runs(experiments, f"attributes.run_id = '{model.mlflow_run_id}'", max_results=1)
    return mlflow.existing_run(model.mlflow_run_id) if found else None


def trials_of(mlflow: "MlflowTracking", dataset: str) -> Iterator[tuple[TrackedRun, Trial]]:
    """The trials of a dataset, the latest first, with their runs.

    Raises:
        InputError: MLflow cannot be reached, or a later version of this package has written one of them.
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
                    # Somebody has edited it: the trial does not count.
                    continue
                yield TrackedRun(client, run, mlflow.url(run.info.experiment_id, run.info.run_id)), trial
            if not (token := page.token):
                return
