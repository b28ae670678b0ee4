"""Disk usage and what a clean-up may remove, for the terminal."""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

import dagster as dg

from lance_pipeline.display import size
from lance_pipeline.errors import ExplainedError, InputError
from lance_pipeline.orchestration.assets.maintenance import SETTINGS, table_names
from lance_pipeline.orchestration.attributes import Maintenance
from lance_pipeline.orchestration.cli.code_location import asset_specs
from lance_pipeline.orchestration.commands import materialize_command
from lance_pipeline.orchestration.dataset import SPLITS
from lance_pipeline.orchestration.lance_store import TRIALS, LanceStore
from lance_pipeline.orchestration.paths import dagster_home, data_root
from lance_pipeline.orchestration.resources import default_resources
from lance_pipeline.orchestration.retention.retain import Outcome, Retention
from lance_pipeline.orchestration.retention.runs import RunHistory, run_files
from lance_pipeline.orchestration.runtime.databases import as_explained_error
from lance_pipeline.orchestration.runtime.instance import prepare_instance
from lance_pipeline.storage.full_disk import FullDiskError, free_bytes
from lance_pipeline.storage.usage import DiskUsage

_SHARED = "all datasets"
_NO_DATASETS = ("downloads", TRIALS)


@dataclass(frozen=True)
class Use:
    """A line of the table.

    Attributes:
        dataset: the dataset; ``all datasets`` for shared files.
        what: kind of file, such as ``models``.
        where: a folder, or an object store.
        bytes: size on this host's disk; None in an object store.
        may_go: removable bytes; None where that is unknown now.
        how: the command that frees them, or why they stay.
    """

    dataset: str
    what: str
    where: str
    bytes: int | None
    may_go: int | None
    how: str


def print_disk(dataset: str | None, module: str, *, as_json: bool) -> None:
    """Print disk usage and what may be removed.

    Args:
        dataset: a dataset's name; None prints all.
        module: module of the definitions, as Dagster's ``-m`` takes it.
        as_json: print JSON, for programs.

    Raises:
        InputError: there is no such dataset, or no such module.
    """
    uses = disk_uses(dataset, module)
    if as_json:
        print(json.dumps([asdict(use) for use in uses], indent=2))
        return
    total = sum(use.bytes or 0 for use in uses)
    # Empty entries do not interest people.
    uses = [use for use in uses if use.bytes != 0]
    print(f"\n{data_root()}: {_size(total)}, {_size(free_bytes(data_root()))} are free on that disk\n")
    rows = [(use.what, _size(use.bytes), _size(use.may_go, "?"), use.how) for use in uses]
    widths = [max(len(row[column]) for row in [*rows, ("", "takes", "may go")]) for column in range(3)]
    group = None
    for use, (what, takes, may_go, how) in zip(uses, rows, strict=True):
        if use.dataset != group:
            group = use.dataset
            print(f"{group:<{widths[0] + 2}}  {'takes':>{widths[1]}}  {'may go':>{widths[2]}}")
        print(f"  {what:<{widths[0]}}  {takes:>{widths[1]}}  {may_go:>{widths[2]}}  {how}".rstrip())
    print("\nFiles with several hard links count once, where they are listed first.")


def disk_uses(dataset: str | None, module: str) -> list[Use]:
    """The lines of the table, dataset by dataset.

    Raises:
        InputError: there is no such dataset, or no such module.
    """
    settings = _settings(module)
    known = sorted({*settings, *_datasets_on_disk()})
    if dataset is not None and dataset not in known:
        raise InputError(f"there is no dataset {dataset!r}; expected one of {', '.join(known) or 'none at all'}.")
    usage, uses = DiskUsage(), []
    with _instance() as (instance, trouble):
        for name in known if dataset is None else [dataset]:
            uses += _DatasetUse(name, settings.get(name), module, instance, trouble, usage).lines()
    return uses if dataset is not None else uses + _shared(usage)


def _settings(module: str) -> dict[str, Maintenance]:
    """The maintenance settings of each dataset in a code location."""
    specs = (spec for spec in asset_specs(module) if SETTINGS in spec.metadata)
    return {spec.key.path[0]: Maintenance.model_validate(spec.metadata[SETTINGS]) for spec in specs}


def _datasets_on_disk() -> Iterator[str]:
    """Names of the datasets that have models, records, reports or checkpoints."""
    store: LanceStore = default_resources()["lance_store"]
    for folder in (store.models_root, store.records_root, store.reports_root, store.checkpoints_root):
        yield from (path.name for path in folder.glob("*/") if path.name not in _NO_DATASETS)


@contextmanager
def _instance() -> Iterator[tuple[dg.DagsterInstance | None, str | None]]:
    """The existing instance, or None; with the reason if a full disk keeps it closed. Never creates an instance."""
    home = dagster_home()
    if not (home / "history").is_dir() and not (home / "dagster.yaml").exists():
        yield None, None
        return
    prepare_instance()
    try:
        opened = dg.DagsterInstance.get()
        # Its databases are opened only now.
        opened.get_runs(limit=1)
    except Exception as error:
        if not isinstance(as_explained_error(error), FullDiskError):
            raise
        yield None, "free a little space first: Dagster's databases cannot be opened"
        return
    with opened as instance:
        yield instance, None


class _DatasetUse:
    """The lines of one dataset; without settings it is in no definitions, and nothing removes its files."""

    def __init__(
        self,
        name: str,
        settings: Maintenance | None,
        module: str,
        instance: dg.DagsterInstance | None,
        trouble: str | None,
        usage: DiskUsage,
    ) -> None:
        self._name, self._settings, self._usage = name, settings, usage
        self._instance, self._trouble = instance, trouble
        self._command = materialize_command(dg.AssetKey([name, "maintenance"]), module)
        self._resources = default_resources()

    def lines(self) -> list[Use]:
        plan, root, name = self._plan(), data_root(), self._name
        store: LanceStore = self._resources["lance_store"]
        models = [one for one in plan.removed if one.what == "model"]
        runs = [one for one in plan.removed if one.what == "Dagster run"]
        trouble = " ".join(plan.troubles) or None
        return [
            self._line("raw images", [root / "raw" / name], 0, "the source: nothing removes it"),
            self._tables(),
            self._line(
                "models",
                [store.models_folder(name)],
                None if trouble else sum(one.bytes for one in models),
                trouble or self._how(len(models), f"{len(plan.kept)} of {len(plan.kept) + len(models)} stay"),
            ),
            self._line("MLflow's artifacts", [root / "mlflow" / "artifacts" / name], 0, "they go with their models"),
            self._line(
                "checkpoints",
                [store.checkpoint_place(name), store.checkpoint_place(f"{TRIALS}/{name}")],
                0,
                "an interrupted training resumes from them; they are removed once the model is there",
            ),
            self._line(
                "Dagster's runs",
                self._run_files(),
                None if trouble else sum(one.bytes for one in runs),
                trouble or self._how(len(runs), "their events and logs"),
            ),
            self._line("records", [store.records_root / name], 0, "they go with their runs"),
            self._line("reports", [store.reports_folder(name)], 0, "lists are written again, pages go with their runs"),
        ]

    def _plan(self) -> Outcome:
        """What a clean-up would remove now."""
        if self._instance is None:
            return Outcome(troubles=[self._trouble] if self._trouble else [])
        if self._settings is None:
            return Outcome(troubles=["no dataset of these definitions: nothing removes it"])
        mlflow, store, records = (self._resources[key] for key in ("mlflow", "lance_store", "io_manager"))
        return Retention(self._name, self._settings.keep, self._instance, mlflow, store, records).plan()

    def _how(self, going: int, staying: str) -> str:
        return f"{going} may go: {self._command}" if going else staying

    def _line(self, what: str, paths: Iterable[str | Path], may_go: int | None, how: str) -> Use:
        paths = [Path(path) for path in paths]
        size = self._usage.of(*paths)
        return Use(self._name, what, str(paths[0]) if len(paths) == 1 else "", size, may_go if size else 0, how)

    def _tables(self) -> Use:
        from lance_pipeline.ingest.maintenance import removable_bytes
        from lance_pipeline.storage.object_store import is_remote

        root = self._resources["lance_store"].datasets_root
        if is_remote(root):
            return Use(self._name, "Lance tables", root, None, None, f"remote; old versions go: {self._command}")
        names = [f"{name}.lance" for name in table_names(self._name)]
        seen = [f"{self._name}_seen", *(f"{self._name}_{split}_seen" for split in SPLITS)]
        size = self._usage.of(*(os.path.join(root, name) for name in (*names, *seen)))
        if self._settings is None:
            return Use(self._name, "Lance tables", root, size, None, "no dataset of these definitions")
        older_than = timedelta(days=self._settings.keep_days)
        try:
            may_go = sum(removable_bytes(os.path.join(root, name), older_than) for name in names)
        except ExplainedError as error:
            return Use(self._name, "Lance tables", root, size, None, str(error))
        how = f"old versions may go: {self._command}" if may_go else "their old versions too"
        return Use(self._name, "Lance tables", root, size, may_go, how)

    def _run_files(self) -> list[Path]:
        if self._instance is None:
            return []
        history = RunHistory(self._name, self._instance)
        return [path for run in history.runs() for path in run_files(self._instance, run.run_id)]


def _shared(usage: DiskUsage) -> list[Use]:
    root, store = data_root(), default_resources()["lance_store"]

    def line(what: str, path: Path, *, may_go: bool, how: str) -> Use:
        size = usage.of(path)
        return Use(_SHARED, what, str(path), size, size if may_go else 0, how)

    return [
        line(
            "decoded images",
            store.cache_folder,
            may_go=True,
            how=f"decoded again when needed: rm -r {store.cache_folder}",
        ),
        line(
            "downloaded weights",
            Path(store.downloads_folder),
            may_go=True,
            how=f"downloaded again when needed: rm -r {store.downloads_folder}",
        ),
        line("MLflow's database", root / "mlflow", may_go=False, how="and artifacts of no dataset"),
        line("Dagster's databases", root / "dagster", may_go=False, how="and runs of no dataset"),
        line("other", root, may_go=False, how="not of this package, or of no dataset"),
    ]


def _size(count: int | None, unknown: str = "remote") -> str:
    return unknown if count is None else size(count)
