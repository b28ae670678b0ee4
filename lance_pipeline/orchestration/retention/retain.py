"""Removing everything beyond the limits of ``maintenance.keep``, and reporting why the rest stays."""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import dagster as dg

from lance_pipeline.errors import ExplainedError
from lance_pipeline.orchestration.attributes import Keep
from lance_pipeline.orchestration.lance_store import LanceStore
from lance_pipeline.orchestration.record_io import RecordIOManager
from lance_pipeline.orchestration.retention.checkpoints import remove_ended, training_ids
from lance_pipeline.orchestration.retention.limits import within_limits
from lance_pipeline.orchestration.retention.models import TRAINED_TAG, KnownModel, Models
from lance_pipeline.orchestration.retention.runs import AssetRun, KnownRun, RunHistory, Runs
from lance_pipeline.orchestration.retention.tracking import Tracking
from lance_pipeline.orchestration.tracking.mlflow_tracking import TRAINING_TAG, MlflowTracking, place_tag
from lance_pipeline.storage.removal import remove
from lance_pipeline.storage.usage import freed_by_removing

if TYPE_CHECKING:
    from mlflow.entities import Run

_BEYOND = "beyond the limits"


class Removed(NamedTuple):
    """One thing that was, or would be, removed; ``bytes`` is the space that this frees."""

    what: str
    name: str
    made: str
    bytes: int
    why: str


class Kept(NamedTuple):
    """A model that stays."""

    model: str
    made: str
    why: str


@dataclass
class Outcome:
    """The outcome of a clean-up, or of a plan for one.

    Attributes:
        removed: the removed things.
        kept: the models that stay.
        troubles: errors that prevented parts of the clean-up.
    """

    removed: list[Removed] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)

    @property
    def freed(self) -> int:
        """The bytes freed in total."""
        return sum(one.bytes for one in self.removed)


class Retention:
    """Applies the limits to a dataset's trainings and runs.

    Args:
        name: the name of the dataset.
        keep: the limits.
        instance: the Dagster instance.
        mlflow: gives access to MLflow.
        store: locates models and checkpoints.
        records: locates records.
        own_run: the calling run, which needs nothing old.
    """

    def __init__(
        self,
        name: str,
        keep: Keep,
        instance: dg.DagsterInstance,
        mlflow: MlflowTracking,
        store: LanceStore,
        records: RecordIOManager,
        own_run: str | None = None,
    ) -> None:
        self._name, self._keep, self._mlflow, self._store = name, keep, mlflow, store
        self._history = RunHistory(name, instance, own_run)
        self._models = Models(name, records, store, self._history)
        self._runs = Runs(records, store.reports_folder(name), self._history)
        self._checkpoints = store.checkpoint_place(name)

    @cached_property
    def _tracking(self) -> Tracking:
        return Tracking(self._mlflow, self._name, place_tag(self._checkpoints))

    def plan(self) -> Outcome:
        """What a clean-up would remove and keep now; changes nothing."""
        outcome = Outcome()
        gone: set[AssetRun] = set()
        with _noting_errors(outcome):
            for model in self._going_models(outcome):
                outcome.removed.append(self._removed_model(model))
                gone |= self._models.outcomes(model)
        with _noting_errors(outcome):
            outcome.removed += [self._removed_run(run) for run in self._going_runs(gone)]
        return outcome

    def apply(self, log: Callable[[str], None]) -> Outcome:
        """Remove everything beyond the limits.

        It may be interrupted anywhere: the next one completes it. What cannot be removed stays, and is reported.

        Args:
            log: called with a line for each removed thing.
        """
        from lance_pipeline.storage.table_lock import locked

        outcome = Outcome()
        steps = (self._complete_removals, self._remove_models, self._remove_mlflow_runs, self._remove_runs)
        with locked([str(self._store.models_folder(self._name))]):
            for step in steps:
                with _noting_errors(outcome):
                    for one in step(outcome):
                        log(f"Removed {one.what} {one.name} of {one.made} ({one.why}): {one.bytes:,} bytes")
                        outcome.removed.append(one)
        return outcome

    def remove_ended_checkpoints(self) -> int:
        """Remove checkpoints that no training needs any more; returns the bytes freed.

        Raises:
            InputError: a checkpoint cannot be read or removed.
        """
        return remove_ended(self._checkpoints, self._history, self._models.keys)

    def pin_predictions(self) -> None:
        """Protect the predictions of models that stay from clean-ups.

        Raises:
            InputError: a table of predictions cannot be read or written.
        """
        self._models.pin_predictions()

    def _going_models(self, outcome: Outcome) -> list[KnownModel]:
        known = self._models.known()
        reasons = self._models.reasons(known, self._keep, lambda: self._tracking)
        outcome.kept += [
            Kept(model.run_id, _date(model.made), reasons[model.run_id]) for model in known if model.run_id in reasons
        ]
        return [model for model in known if model.run_id not in reasons]

    def _complete_removals(self, outcome: Outcome) -> Iterator[Removed]:
        del outcome
        for removal in self._models.removals():
            self._models.complete(removal, self._tracking)
            yield Removed("model", removal.run_id, "before", 0, "its removal was interrupted")

    def _remove_models(self, outcome: Outcome) -> Iterator[Removed]:
        for model in self._going_models(outcome):
            removed = self._removed_model(model)
            if model.record is None:
                remove(model.folder)
            else:
                removal = self._models.begin_removal(model, model.record, self._tracking)
                self._models.complete(removal, self._tracking)
            yield removed

    def _removed_model(self, model: KnownModel) -> Removed:
        artifacts = self._tracking.folders(model.record.mlflow_run_id) if model.record else []
        why = _BEYOND if model.record else "left by a run that ended before its model was done"
        return Removed("model", model.run_id, _date(model.made), freed_by_removing(model.folder, *artifacts), why)

    def _remove_mlflow_runs(self, outcome: Outcome) -> Iterator[Removed]:
        """Remove runs of trainings that ended without a model and will not resume, and runs deleted by users."""
        del outcome
        models = {model.record.mlflow_run_id for model in self._models.known() if model.record}
        failed = [run for run in self._tracking.ended_without_model() if run.info.run_id not in models]
        made = {run.info.run_id: (run.info.end_time or run.info.start_time) / 1000 for run in failed}
        reasons = within_limits(made, self._keep)
        going = [run for run in failed if run.info.run_id not in reasons]
        if going:
            resumable = training_ids(self._checkpoints)
            going = [run for run in going if run.data.tags[TRAINING_TAG] not in resumable]
        for run in going:
            if self._tracking.why_kept(run.info.run_id) is None:
                yield self._remove_mlflow_run(run, _BEYOND)
        for run in self._tracking.in_trash(self._keep.days):
            if run.info.run_id not in models:
                yield self._remove_mlflow_run(run, f"deleted in MLflow more than {self._keep.days:g} days ago")

    def _remove_mlflow_run(self, run: "Run", why: str) -> Removed:
        from lance_pipeline.ingest.maintenance import release_version

        size = freed_by_removing(*self._tracking.folders(run.info.run_id))
        for split in ("train", "val"):
            if uri := run.data.tags.get(f"lance.{split}.uri"):
                release_version(uri, f"{TRAINED_TAG}.{run.data.tags[TRAINING_TAG]}")
        self._tracking.remove(run.info.run_id)
        made = (run.info.end_time or run.info.start_time) / 1000
        return Removed("MLflow run", run.info.run_id, _date(made), size, why)

    def _remove_runs(self, outcome: Outcome) -> Iterator[Removed]:
        del outcome
        for run_id in self._runs.left_over():
            yield Removed(
                "Dagster run", run_id, "before", self._runs.remove_events(run_id), "only its events were left"
            )
        for run in self._going_runs():
            removed = self._removed_run(run)
            self._runs.remove(run)
            yield removed

    def _going_runs(self, without: Collection[AssetRun] = ()) -> list[KnownRun]:
        runs = self._history.runs()
        reasons = self._runs.reasons(runs, self._keep, without)
        return [run for run in runs if run.run_id not in reasons]

    def _removed_run(self, run: KnownRun) -> Removed:
        return Removed("Dagster run", run.run_id, _date(run.made), self._runs.size(run), _BEYOND)


@contextmanager
def _noting_errors(outcome: Outcome) -> Iterator[None]:
    """Note errors in the outcome, so that the remaining steps still run."""
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (ExplainedError, OSError, SQLAlchemyError) as error:
        outcome.troubles.append(str(error))


def _date(made: float) -> str:
    return f"{datetime.fromtimestamp(made, UTC):%Y-%m-%d %H:%M}"
