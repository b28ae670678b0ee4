"""Lists a dataset's trials beside the current model, for the terminal."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import dagster as dg

from lance_pipeline.display import printable
from lance_pipeline.orchestration.attributes import ImageClassifierAttributes
from lance_pipeline.orchestration.record_io import RecordIOManager
from lance_pipeline.orchestration.records import Model, Split
from lance_pipeline.orchestration.tracking.mlflow_tracking import MlflowTracking
from lance_pipeline.orchestration.tracking.run_names import base_name
from lance_pipeline.orchestration.tracking.tracked_run import TrackedRun
from lance_pipeline.orchestration.trials.record import Trial, run_of, trials_of
from lance_pipeline.orchestration.trials.settings import Settings, as_text, differences
from lance_pipeline.orchestration.ui.address import address_of, start_hint

_HEAD = ("name", "beside the current recipe", "val accuracy", "test", "epochs", "minutes", "MLflow")


@dataclass(frozen=True)
class Candidate:
    """Trials that differ only in their seeds, the first one first."""

    trials: Sequence[Trial]
    runs: Sequence[TrackedRun]

    @property
    def name(self) -> str:
        """The name of its first run, without the result."""
        return self.names[0]

    @property
    def names(self) -> list[str]:
        """The names of all its runs."""
        return [base_name(run.name) for run in self.runs]

    @property
    def accuracy(self) -> float:
        """The mean accuracy on the val split."""
        return statistics.fmean(trial.val_accuracy for trial in self.trials)


def candidates_of(mlflow: MlflowTracking, dataset: str) -> list[Candidate]:
    """The candidates, best on val first.

    Raises:
        InputError: MLflow is unreachable.
    """
    groups: dict[str, list[tuple[TrackedRun, Trial]]] = {}
    for run, trial in trials_of(mlflow, dataset):
        groups.setdefault(trial.candidate, []).insert(0, (run, trial))
    found = [Candidate([trial for _, trial in group], [run for run, _ in group]) for group in groups.values()]
    return sorted(found, key=lambda one: -one.accuracy)


def listing(
    dataset: str,
    now: ImageClassifierAttributes,
    records: RecordIOManager,
    instance: dg.DagsterInstance,
    mlflow: MlflowTracking,
) -> list[str]:
    """A table of the current model and all trials, line by line.

    Raises:
        InputError: MLflow is unreachable, or a record cannot be read.
    """
    data = tuple(records.read(instance, dg.AssetKey([dataset, f"lance_{one}"]), Split).data for one in ("train", "val"))
    rows: list[tuple[str, ...]] = []
    key = dg.AssetKey([dataset, now.model])
    if instance.get_latest_materialization_event(key) is not None:
        rows.append(_current(records.read(instance, key, Model), now, data, mlflow))
    rows += [_row(one, now, data) for one in candidates_of(mlflow, dataset)]
    if all(row[3] == "" for row in rows):
        rows = [row[:3] + row[4:] for row in rows]
        head = _HEAD[:3] + _HEAD[4:]
    else:
        head = _HEAD
    return [*_table([head, *rows]), *(f"The links open {hint}." for hint in start_hint(mlflow.ui))]


def _row(one: Candidate, now: ImageClassifierAttributes, data: tuple[object, ...]) -> tuple[str, ...]:
    first = one.trials[0]
    notes = ["other data"] * ((first.train, first.val) != data)
    notes += ["stopped early"] * any(trial.stopped_early for trial in one.trials)
    changes = as_text(differences(now, first.recipe, first.image_size, first.model)) or "nothing"
    changes += f" ({', '.join(notes)})" if notes else ""
    tested = [trial.test_accuracy for trial in one.trials if trial.test_accuracy is not None]
    return (
        one.name,
        changes,
        _accuracy([trial.val_accuracy for trial in one.trials]),
        _accuracy(tested) if tested else "",
        _range([trial.epochs for trial in one.trials]),
        f"{sum(trial.seconds for trial in one.trials) / 60:.1f}",
        _address(one.runs[0]),
    )


def _current(
    model: Model, now: ImageClassifierAttributes, data: tuple[object, ...], mlflow: MlflowTracking
) -> tuple[str, ...]:
    run, seconds = run_of(mlflow, model), []
    with mlflow.clear_errors():
        if run is not None:
            seconds = [one.value for one in run.client.get_metric_history(run.run_id, "duration")]
    note = "" if (model.train, model.val) == data else " (other data)"
    changes = as_text(_set_otherwise(now, model))
    return (
        base_name(run.name) if run else "",
        f"the current model{changes and f', with {changes}'}{note}",
        _accuracy([model.val_accuracy]),
        "",
        str(len(seconds)),
        f"{sum(seconds) / 60:.1f}",
        _address(run),
    )


def _set_otherwise(now: ImageClassifierAttributes, model: Model) -> Settings:
    """Settings of the current recipe that differ from a model's, whose recipe is fully resolved."""
    given = {f"recipe.{name}": value for name, value in now.recipe.model_dump().items()}
    return {
        key: value
        for key, value in differences(now, model.recipe, model.image_size, model.network).items()
        if given.get(key, now.image_size) not in (None, "auto") and key != "recipe.weights"
    }


def _address(run: TrackedRun | None) -> str:
    return address_of(run.url) if run else "removed from MLflow"


def _accuracy(values: Sequence[float]) -> str:
    mean = f"{statistics.fmean(values) * 100:.1f}"
    return f"{mean} ± {statistics.stdev(values) * 100:.1f} % ({len(values)} seeds)" if len(values) > 1 else f"{mean} %"


def _range(values: Sequence[int]) -> str:
    return f"{min(values)}" if min(values) == max(values) else f"{min(values)}-{max(values)}"


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        printable("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
        for row in rows
    ]
