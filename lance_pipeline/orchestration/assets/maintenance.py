"""Tidying up a dataset: its old models and runs, and its Lance tables."""

from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg

from lance_pipeline.display import count, size
from lance_pipeline.errors import InputError
from lance_pipeline.orchestration.checks import never_materialized
from lance_pipeline.orchestration.dataset import MAINTENANCE_GROUP, SPLITS, Dataset
from lance_pipeline.orchestration.lance_store import LanceStore
from lance_pipeline.orchestration.metadata import shown, table
from lance_pipeline.orchestration.record_io import RecordIOManager
from lance_pipeline.orchestration.records import Split
from lance_pipeline.orchestration.retention.retain import Retention
from lance_pipeline.orchestration.runtime.failures import clear_failures
from lance_pipeline.orchestration.runtime.supervision import interruptible
from lance_pipeline.orchestration.tracking.mlflow_tracking import MlflowTracking

if TYPE_CHECKING:
    from lance_pipeline.ingest.maintenance import TidyResult

SETTINGS = "maintenance"
"""Metadata key of the asset: the maintenance settings of its dataset."""


def build_maintenance(dataset: Dataset) -> dg.AssetsDefinition:
    """The asset ``<dataset>/maintenance``, in the group of all datasets' maintenance.

    Raises:
        InputError: the dataset has the same name as that group.
    """
    if dataset.name == MAINTENANCE_GROUP:
        raise InputError(
            f"a dataset cannot be named {MAINTENANCE_GROUP!r}: the group of that name is for the maintenance of all "
            "datasets. Set another `name` under `attributes`."
        )
    keep = timedelta(days=dataset.attributes.maintenance.keep_days)
    spec = dataset.spec(
        "maintenance",
        f"{dataset.name}: removes models and runs beyond the limits of `maintenance.keep`, compacts the dataset's "
        "Lance tables and removes old versions of them. Versions that a model was trained on, and those that the "
        "latest materializations name, stay.",
        {"lance"},
        "1",
        deps=[dataset.key(f"lance_{split}") for split in SPLITS],
        metadata={SETTINGS: dataset.attributes.maintenance.model_dump(mode="json")},
    ).replace_attributes(group_name=MAINTENANCE_GROUP)

    checks = {
        split: dg.AssetCheckSpec(
            f"{split}_rows_are_intact",
            asset=spec.key,
            description=f"All stored rows of the {split} split are what was ingested, by their digests.",
        )
        for split in SPLITS
    }

    @dg.multi_asset(
        name=f"{dataset.name}__maintenance",
        specs=[spec],
        check_specs=list(checks.values()),
        op_tags=dataset.step_tags,
        can_subset=True,
    )
    def maintenance(
        context: dg.AssetExecutionContext,
        mlflow: MlflowTracking,
        lance_store: LanceStore,
        io_manager: dg.ResourceParam[RecordIOManager],
    ):
        if spec.key not in context.selected_asset_keys:
            with clear_failures(context), interruptible(context):
                yield from _verify(context, dataset, checks, io_manager)
            return
        limits, run_id = dataset.attributes.maintenance.keep, context.run.run_id
        retention = Retention(dataset.name, limits, context.instance, mlflow, lance_store, io_manager, run_id)
        with clear_failures(context), interruptible(context):
            checkpoints = retention.remove_ended_checkpoints()
            outcome = retention.apply(context.log.info)
            retention.pin_predictions()
            tidied = list(_tidy(context, dataset, lance_store, keep))
        rows = {
            "removed": [one._asdict() | {"bytes": size(one.bytes)} for one in outcome.removed],
            "models_kept": [one._asdict() for one in outcome.kept],
            "tables": [_table_row(one) for one in tidied],
        }
        freed = checkpoints + outcome.freed + sum(one.bytes_removed for one in tidied)
        yield dg.MaterializeResult(
            metadata=shown(
                {
                    "freed": size(freed),
                    "bytes_removed": freed,
                    "checkpoint_bytes_removed": checkpoints,
                    # Dagster rejects a table without rows.
                    **{name: table(lines) for name, lines in rows.items() if lines},
                }
            )
        )
        for split, check in checks.items():
            uri = lance_store.dataset_uri(f"{dataset.name}_{split}")
            found = next((one for one in tidied if one.uri == uri), None)
            # A missing table has no damaged rows.
            about = {} if found is None else _damage(found.version, found.damaged, found.note)
            yield _check_result(check, about, passed=found is None or found.intact)
        with clear_failures(context):
            if outcome.troubles:
                raise InputError(["Not all that may go was removed.", *outcome.troubles])

    return maintenance


def _table_row(one: "TidyResult") -> dict[str, str | int]:
    """A row that fits the page: the name of the table without its path."""
    return {
        "table": one.uri.rstrip("/").rpartition("/")[2],
        "versions": f"{count(one.versions_before)} → {count(one.versions)}",
        "data_files": f"{count(one.data_files_before)} → {count(one.data_files)}",
        "freed": size(one.bytes_removed),
        "damaged_rows": one.damaged,
        "note": one.note,
    }


def _verify(
    context: dg.AssetExecutionContext,
    dataset: Dataset,
    checks: dict[str, dg.AssetCheckSpec],
    records: RecordIOManager,
) -> Iterator[dg.AssetCheckResult]:
    """The results of the selected checks, for the versions of the splits in their latest materializations."""
    from lance_pipeline.storage.tables import open_table
    from lance_pipeline.storage.verification import verify_rows

    for split, check in checks.items():
        if check.key not in context.selected_asset_check_keys:
            continue
        key = dataset.key(f"lance_{split}")
        if context.instance.get_latest_materialization_event(key) is None:
            yield from never_materialized(key, [check.key])
            continue
        data = records.read(context.instance, key, Split).data
        found = verify_rows(open_table(data.uri, data.version))
        yield _check_result(check, _damage(found.version, len(found.damaged), found.note), passed=found.passed)


def _damage(version: int, damaged: int, note: str) -> dict[str, Any]:
    return {"damaged_rows": damaged, "lance_version": str(version), "note": note}


def _check_result(check: dg.AssetCheckSpec, about: dict[str, Any], *, passed: bool) -> dg.AssetCheckResult:
    metadata = shown({"there": "yes" if about else "no", **about})
    return dg.AssetCheckResult(asset_key=check.asset_key, check_name=check.name, passed=passed, metadata=metadata)


def table_names(name: str) -> list[str]:
    """The Lance tables that a dataset with this name may have."""
    kinds = ("", "_rejected", "_predictions")
    return [f"{name}_listing", *(f"{name}_{split}{kind}" for split in SPLITS for kind in kinds)]


def _tidy(
    context: dg.AssetExecutionContext, dataset: Dataset, store: LanceStore, keep: timedelta
) -> "Iterator[TidyResult]":
    from lance_pipeline.ingest.maintenance import tidy

    for uri, seen_uri in _tables(dataset, store):
        one = tidy(uri, keep, seen_uri)
        context.log.info(
            f"{uri}: {one.versions_before} versions are now {one.versions}, {one.data_files_before} data files "
            f"are now {one.data_files}, {one.bytes_removed} bytes removed{one.note and f'; {one.note}'}"
        )
        yield one


def _tables(dataset: Dataset, store: LanceStore) -> Iterator[tuple[str, str | None]]:
    """The existing tables, each with its folder of already seen files if an ingest writes the table."""
    from lance_pipeline.storage.tables import find_table

    name, drawn = dataset.name, dataset.attributes.splits.fractions is not None
    seen = {f"{name}_{split}": f"{name}_seen" if drawn else f"{name}_{split}_seen" for split in SPLITS}
    for table_name in table_names(name):
        uri = store.dataset_uri(table_name)
        if find_table(uri) is not None:
            yield uri, store.folder_uri(seen[table_name]) if table_name in seen else None
