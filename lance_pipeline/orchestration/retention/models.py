"""The models of a dataset: which stay and why, and removing the others with everything that belongs to them."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import dagster as dg

from lance_pipeline.errors import InputError
from lance_pipeline.orchestration.attributes import Keep
from lance_pipeline.orchestration.dataset import SPLITS
from lance_pipeline.orchestration.lance_store import LanceStore
from lance_pipeline.orchestration.model_assets import model_assets
from lance_pipeline.orchestration.pages.page import page_path
from lance_pipeline.orchestration.record_io import RecordIOManager
from lance_pipeline.orchestration.records import Metrics, Model, Record
from lance_pipeline.orchestration.retention.limits import within_limits
from lance_pipeline.orchestration.retention.runs import AssetRun, RunHistory
from lance_pipeline.orchestration.retention.tracking import Tracking
from lance_pipeline.orchestration.runtime.databases import as_explained_error
from lance_pipeline.storage.removal import remove
from lance_pipeline.storage.whole_files import write_whole
from lance_pipeline.training.networks import NETWORKS

TRAINED_TAG = "trained"
"""Tag of the Lance versions that a training reads: ``trained.<training id>``."""
EVALUATED_TAG = "evaluated"
"""Tag of the predictions in a record: ``evaluated.<Dagster run>``."""
_NOTE = ".removing"


class Removal(Record):
    """A model that is being removed, noted beside the records so that the next clean-up can complete the removal."""

    run_id: str
    training_id: str | None
    model: Model


@dataclass(frozen=True)
class KnownModel:
    """A model on disk.

    Attributes:
        run_id: the Dagster run that made it.
        network: the network, which names its asset; None if neither a record nor a materialization gives it.
        folder: the folder of its weights and card.
        made: when it was made, a Unix time.
        record: its record; None if there is none.
        damage: why its record cannot be read.
        left_over: whether it was left by a run that ended before the model was done.
    """

    run_id: str
    network: str | None
    folder: Path
    made: float
    record: Model | None
    damage: str | None
    left_over: bool


class Models:
    """The models of a dataset, for all networks that it was ever configured with: each network has its own asset.

    Args:
        name: the name of the dataset.
        records: locates the records.
        store: locates the models.
        history: Dagster's runs.
    """

    def __init__(self, name: str, records: RecordIOManager, store: LanceStore, history: RunHistory) -> None:
        self._name, self._records, self._history = name, records, history
        self._folder, self._reports = store.models_folder(name), store.reports_folder(name)
        recorded = {path.name for path in records.asset_folder(dg.AssetKey([name])).glob("*/")} & NETWORKS.keys()
        self._networks = sorted({*model_assets(history.instance, name), *recorded})

    @property
    def keys(self) -> list[dg.AssetKey]:
        """The keys of the models' assets."""
        return list(map(self._key, self._networks))

    def _key(self, network: str) -> dg.AssetKey:
        return dg.AssetKey([self._name, network])

    def _notes(self, network: str) -> Path:
        """The folder of the records and of the notes about unfinished removals."""
        return self._records.asset_folder(self._key(network))

    def known(self) -> list[KnownModel]:
        """All models, the latest first."""
        run_ids = {path.name for path in self._folder.glob("*/")}
        networks: dict[str, str] = {}
        made: dict[str, float] = {}
        for network in self._networks:
            recorded = {path.stem for path in self._notes(network).glob("*.json")}
            run_ids |= recorded
            networks |= dict.fromkeys(recorded, network)
            for event in self._history.materializations(self._key(network)):
                made.setdefault(event.run_id, event.timestamp)
                networks.setdefault(event.run_id, network)
        models = [self._one(run_id, networks.get(run_id), made) for run_id in run_ids]
        return sorted(models, key=lambda model: (-model.made, model.run_id))

    def _one(self, run_id: str, network: str | None, made: Mapping[str, float]) -> KnownModel:
        folder = self._folder / run_id
        path = folder if network is None else self._notes(network) / f"{run_id}.json"
        record, damage = None, None
        try:
            if network is not None and path.exists():
                record = self._records.read(self._history.instance, self._key(network), Model, run_id)
        except InputError as error:
            damage = str(error)
        left_over = record is None and damage is None and run_id not in made and self._history.has_ended(run_id)
        return KnownModel(
            run_id, network, folder, made.get(run_id) or _modified(path, folder), record, damage, left_over
        )

    def reasons(self, known: list[KnownModel], keep: Keep, tracking: Callable[[], Tracking]) -> dict[str, str]:
        """Why models stay, by run; models without a reason may go.

        Args:
            known: all models, the latest first.
            keep: the limits.
            tracking: gives access to MLflow; called only if the limits and Dagster do not keep all models.

        Raises:
            InputError: MLflow cannot be reached, or a record cannot be read.
        """
        models = [model for model in known if not model.left_over]
        reasons = within_limits({model.run_id: model.made for model in models}, keep)
        in_use, evaluated = self._in_use(models), self._evaluated_runs()
        for model in models:
            if model.damage:
                reasons[model.run_id] = f"its record cannot be read: {model.damage}"
            elif model.record is None:
                reasons.setdefault(model.run_id, "it has no record")
            elif model.run_id in in_use:
                reasons.setdefault(model.run_id, "a run that has not ended may use it")
            elif model.record.mlflow_run_id in evaluated:
                reasons.setdefault(model.run_id, "the latest metrics are of it")
        for key in self.keys:
            if (latest := self._history.latest_run(key)) is not None:
                reasons[latest] = "the latest"
        for model in models:
            if model.run_id not in reasons and model.record is not None:
                why = tracking().why_kept(model.record.mlflow_run_id)
                reasons |= {model.run_id: why} if why else {}
        return reasons

    def _in_use(self, models: list[KnownModel]) -> set[str]:
        """The models that an unfinished run may read: the latest of each network at its launch, and all later ones."""
        since = self._history.earliest_live()
        if since is None:
            return set()
        later = {model.run_id for model in models if model.made >= since}
        # In order of time, so that the latest of each network remains.
        latest = {model.network: model.run_id for model in reversed(models) if model.run_id not in later}
        return {*later, *latest.values()}

    def _evaluated_runs(self) -> set[str]:
        """The MLflow runs that the latest metrics are of."""
        found = set()
        for split in SPLITS[1:]:
            run_id = self._history.latest_run(self._metrics(split))
            found |= {record.mlflow_run_id for name, record in self._metrics_records(split) if name == run_id}
        return found

    def _metrics(self, split: str) -> dg.AssetKey:
        return dg.AssetKey([self._name, f"metrics_{split}"])

    def _metrics_records(self, split: str) -> Iterator[tuple[str, Metrics]]:
        """The readable records of metrics, by run."""
        key = self._metrics(split)
        for path in sorted(self._records.asset_folder(key).glob("*.json")):
            try:
                record = self._records.read(self._history.instance, key, Metrics, path.stem)
            except InputError:
                # Its model is unknown: leave it alone; evaluating again replaces it.
                continue
            yield path.stem, record

    def outcomes(self, model: KnownModel) -> set[AssetRun]:
        """The model and its metrics, as Dagster knows them."""
        found = {(model.network, model.run_id)} if model.network else set()
        for split in SPLITS[1:]:
            records = self._metrics_records(split) if model.record else ()
            found |= {
                (f"metrics_{split}", run_id)
                for run_id, record in records
                if model.record and record.mlflow_run_id == model.record.mlflow_run_id
            }
        return found

    def begin_removal(self, model: KnownModel, record: Model, tracking: Tracking) -> Removal:
        """Note that a model is being removed, with everything needed to complete this if the process ends early.

        Raises:
            InputError: MLflow cannot be reached, or the note cannot be written.
        """
        removal = Removal(run_id=model.run_id, training_id=tracking.training_id(record.mlflow_run_id), model=record)
        note = self._notes(record.network) / f"{model.run_id}{_NOTE}"
        try:
            write_whole(note, removal.to_json())
        except OSError as error:
            raise as_explained_error(error) or InputError(f"cannot write {note}: {error.strerror}.") from error
        return removal

    def removals(self) -> list[Removal]:
        """The unfinished removals."""
        notes = sorted(path for network in self._networks for path in self._notes(network).glob(f"*{_NOTE}"))
        return [Removal.from_json(path.read_bytes(), str(path), "remove the model by hand") for path in notes]

    def complete(self, removal: Removal, tracking: Tracking) -> None:
        """Remove a model with its records, pages, MLflow run, files, and tags on Lance versions.

        Raises:
            InputError: something cannot be removed; the note stays, and the next clean-up tries again.
        """
        from lance_pipeline.ingest.maintenance import release_version

        model, notes = removal.model, self._notes(removal.model.network)
        # Records first, as they point to the rest; the note last, as it says what is left to do.
        (notes / f"{removal.run_id}.json").unlink(missing_ok=True)
        page_path(self._reports, model.network, removal.run_id).unlink(missing_ok=True)
        shared = any(one.record and one.record.mlflow_run_id == model.mlflow_run_id for one in self.known())
        if not shared:
            for split in SPLITS[1:]:
                self._remove_metrics(split, model.mlflow_run_id)
            tracking.remove(model.mlflow_run_id)
        remove(self._folder / removal.run_id)
        if removal.training_id and not shared:
            for data in (model.train, model.val):
                release_version(data.uri, f"{TRAINED_TAG}.{removal.training_id}")
        (notes / f"{removal.run_id}{_NOTE}").unlink(missing_ok=True)

    def _remove_metrics(self, split: str, mlflow_run_id: str) -> None:
        """Remove the records of a model's metrics, and the tags on its predictions."""
        from lance_pipeline.ingest.maintenance import release_version

        for run_id, record in self._metrics_records(split):
            if record.mlflow_run_id == mlflow_run_id:
                release_version(record.predictions.uri, f"{EVALUATED_TAG}.{run_id}")
                page_path(self._reports, f"metrics_{split}", run_id).unlink(missing_ok=True)
                (self._records.asset_folder(self._metrics(split)) / f"{run_id}.json").unlink(missing_ok=True)

    def pin_predictions(self) -> None:
        """Tag the predictions in records, so that they stay as long as their model.

        Raises:
            InputError: a table cannot be read or written.
        """
        from lance_pipeline.ingest.maintenance import keep_versions

        for split in SPLITS[1:]:
            wanted: dict[str, dict[str, int]] = {}
            for run_id, record in self._metrics_records(split):
                wanted.setdefault(record.predictions.uri, {})[f"{EVALUATED_TAG}.{run_id}"] = record.predictions.version
            for uri, versions in wanted.items():
                keep_versions(uri, versions)


def _modified(*paths: Path) -> float:
    return next((path.stat().st_mtime for path in paths if path.exists()), 0.0)
