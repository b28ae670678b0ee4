"""The Dagster runs of a dataset: which stay and why, and removing the others with their records, events and logs."""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
from dagster._core.definitions.data_version import INPUT_EVENT_POINTER_TAG_PREFIX
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES

from lance_pipeline.orchestration.attributes import Keep
from lance_pipeline.orchestration.pages.page import pages_of_run
from lance_pipeline.orchestration.record_io import RecordIOManager
from lance_pipeline.orchestration.retention.limits import within_limits
from lance_pipeline.storage.removal import remove
from lance_pipeline.storage.usage import freed_by_removing
from lance_pipeline.training.networks import NETWORKS

if TYPE_CHECKING:
    from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage

_PAGE = 200
AssetRun = tuple[str, str]
"""The last part of an asset's key, and the id of a run that materialized it."""


@dataclass(frozen=True)
class KnownRun:
    """A Dagster run that concerns assets of the dataset.

    Attributes:
        run_id: its id.
        made: when it was launched, a Unix time.
        keys: the assets that it was launched to make or check.
        ended: whether it has finished.
    """

    run_id: str
    made: float
    keys: frozenset[dg.AssetKey]
    ended: bool


class RunHistory:
    """Dagster's runs, as far as they concern a dataset.

    Args:
        name: the name of the dataset.
        instance: the Dagster instance.
        own: the calling run, which does not count as unfinished.
    """

    def __init__(self, name: str, instance: dg.DagsterInstance, own: str | None = None) -> None:
        self.name, self.instance, self._own = name, instance, own
        self._latest: dict[dg.AssetKey, str | None] = {}

    def runs(self) -> list[KnownRun]:
        """The runs that concern assets of the dataset, the latest first."""
        return [run for run in self._all() if any(key.path[0] == self.name for key in run.keys)]

    def _all(self) -> Iterator[KnownRun]:
        cursor = None
        while True:
            page = self.instance.get_run_records(limit=_PAGE, cursor=cursor)
            for record in page:
                run = record.dagster_run
                keys = self._keys(run)
                yield KnownRun(run.run_id, record.create_timestamp.timestamp(), keys, run.is_finished)
            if len(page) < _PAGE:
                return
            cursor = page[-1].dagster_run.run_id

    def _keys(self, run: dg.DagsterRun) -> frozenset[dg.AssetKey]:
        chosen = frozenset(run.asset_selection or ())
        checks = frozenset(check.asset_key for check in run.asset_check_selection or ())
        if chosen or checks:
            return chosen | checks
        # A job launched as a whole: its events name the planned assets.
        planned = self.instance.get_records_for_run(
            run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED
        ).records
        return frozenset(record.asset_key for record in planned if record.asset_key)

    def has_ended(self, run_id: str) -> bool:
        """Whether Dagster knows the run and the run has finished."""
        run = self.instance.get_run_by_id(run_id)
        return run is not None and run.is_finished

    def earliest_live(self) -> float | None:
        """When the earliest unfinished run was launched; None if there is none."""
        records = self.instance.get_run_records(dg.RunsFilter(statuses=NOT_FINISHED_STATUSES))
        return min(
            (
                record.create_timestamp.timestamp()
                for record in records
                if record.dagster_run.run_id != self._own
                and (not (keys := self._keys(record.dagster_run)) or any(key.path[0] == self.name for key in keys))
            ),
            default=None,
        )

    def latest_run(self, key: dg.AssetKey) -> str | None:
        """The id of the run with the asset's latest materialization."""
        if key not in self._latest:
            event = self.instance.get_latest_materialization_event(key)
            self._latest[key] = event.run_id if event else None
        return self._latest[key]

    def materializations(self, key: dg.AssetKey) -> Iterator[dg.EventLogRecord]:
        """All materializations of the asset, the latest first."""
        cursor = None
        while True:
            page = self.instance.fetch_materializations(key, limit=_PAGE, cursor=cursor)
            yield from page.records
            if not page.has_more:
                return
            cursor = page.cursor

    def lineage(self, outcomes: Iterable[AssetRun]) -> set[AssetRun]:
        """These materializations and everything that they were made from, as far as Dagster knows."""
        found: set[AssetRun] = set()
        pending = list(outcomes)
        while pending:
            one = pending.pop()
            if one not in found:
                found.add(one)
                pending += self._inputs(one)
        return found

    def _inputs(self, outcome: AssetRun) -> Iterator[AssetRun]:
        asset, run_id = outcome
        # Reading the events of a removed run would create a database for it.
        if not self.instance.has_run(run_id):
            return
        made = self.instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION).records
        key = dg.AssetKey([self.name, asset])
        for event in (record.asset_materialization for record in made if record.asset_key == key):
            for tag, storage_id in (event.tags or {}).items() if event else ():
                if tag.startswith(INPUT_EVENT_POINTER_TAG_PREFIX):
                    source = dg.AssetKey.from_user_string(tag.removeprefix(f"{INPUT_EVENT_POINTER_TAG_PREFIX}/"))
                    chosen = dg.AssetRecordsFilter(asset_key=source, storage_ids=[int(storage_id)])
                    for record in self.instance.fetch_materializations(chosen, limit=1).records:
                        yield source.path[-1], record.run_id


class Runs:
    """The runs of a dataset with their records and pages.

    Runs of existing models and metrics are removed only with the models.

    Args:
        records: locates the records.
        reports: the folder of the dataset's pages.
        history: the runs.
    """

    def __init__(self, records: RecordIOManager, reports: Path, history: RunHistory) -> None:
        self._history = history
        self._root = records.asset_folder(dg.AssetKey([history.name]))
        self._reports = reports

    def reasons(self, runs: list[KnownRun], keep: Keep, without: Collection[AssetRun] = ()) -> dict[str, str]:
        """Why runs stay; runs without a reason may go.

        Args:
            runs: all runs of the dataset.
            keep: the limits.
            without: models and metrics about to be removed, whose lineage is not needed any more.
        """
        reasons = within_limits({run.run_id: run.made for run in runs}, keep)
        if all(run.run_id in reasons for run in runs):
            # The usual case, in which no lineage has to be read.
            return reasons
        lineage = self._history.lineage(outcome for outcome in self._outcomes() if outcome not in without)
        needed = {run_id for _, run_id in lineage}
        for run in runs:
            if not run.ended:
                reasons[run.run_id] = "it has not ended"
            elif run.run_id in needed:
                reasons.setdefault(run.run_id, "a model that stays came of it, its data or its metrics")
            elif any(self._history.latest_run(key) == run.run_id for key in run.keys):
                reasons.setdefault(run.run_id, "it made the latest of an asset")
            elif self._has_records_elsewhere(run):
                reasons.setdefault(run.run_id, "another dataset has records of it")
        return reasons

    def _outcomes(self) -> Iterator[AssetRun]:
        """The existing models and metrics."""
        for folder in self._root.glob("*/"):
            if folder.name in NETWORKS or folder.name.startswith("metrics_"):
                yield from ((folder.name, path.stem) for path in folder.glob("*.json"))

    def _has_records_elsewhere(self, run: KnownRun) -> bool:
        others = {key.path[0] for key in run.keys} - {self._history.name}
        return any(any((self._root.parent / other).glob(f"*/{run.run_id}.json")) for other in others)

    def size(self, run: KnownRun) -> int:
        """The bytes freed by removing a run."""
        return freed_by_removing(*self._records_of(run.run_id), *run_files(self._history.instance, run.run_id))

    def remove(self, run: KnownRun) -> None:
        """Remove a run with its records, pages, events and logs; its events last, so that a retry finds the run.

        Raises:
            InputError: something cannot be removed.
        """
        instance = self._history.instance
        for path in self._records_of(run.run_id):
            path.unlink(missing_ok=True)
        instance.compute_log_manager.delete_logs(prefix=[run.run_id])
        instance.run_storage.delete_run(run.run_id)
        self.remove_events(run.run_id)

    def left_over(self) -> list[str]:
        """Removed runs whose events remain: a removal was interrupted, or Dagster's UI removed the runs."""
        from dagster._core.storage.event_log.sqlite.sqlite_event_log import INDEX_SHARD_NAME

        instance = self._history.instance
        events = _events_by_run(instance)
        if events is None:
            return []
        # List the files first: a run exists before its events.
        files = Path(events.path_for_shard("*")).parent.glob("*.db")
        found = {path.stem for path in files} - {INDEX_SHARD_NAME}
        return sorted(found.difference(instance.run_storage.get_run_ids()))

    def remove_events(self, run_id: str) -> int:
        """Remove the events of a removed run; returns the bytes freed.

        Raises:
            InputError: a file cannot be removed.
        """
        instance = self._history.instance
        freed = freed_by_removing(*run_files(instance, run_id))
        instance.event_log_storage.delete_events(run_id)
        for path in run_files(instance, run_id):
            remove(path)
        return freed

    def _records_of(self, run_id: str) -> list[Path]:
        return [*self._root.glob(f"*/{run_id}.json"), *pages_of_run(self._reports, run_id)]


def _events_by_run(instance: dg.DagsterInstance) -> "SqliteEventLogStorage | None":
    """Dagster's event log, if each run has its own database there."""
    from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage

    events = instance.event_log_storage
    return events if isinstance(events, SqliteEventLogStorage) else None


def run_files(instance: dg.DagsterInstance, run_id: str) -> list[Path]:
    """The database of a run's events, if each run has its own, and the output of its steps."""
    printed = Path(instance.storage_directory(), run_id)
    events = _events_by_run(instance)
    if events is None:
        return [printed]
    database = events.path_for_shard(run_id)
    return [printed, *(Path(database + suffix) for suffix in ("-wal", "-shm", "-journal", ""))]
