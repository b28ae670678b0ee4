"""Checks of an asset that are answered without materializing it, from the version that is there."""

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import TypeVar

import dagster as dg

from lance_pipeline.orchestration.commands import materialize_command
from lance_pipeline.orchestration.record_io import RecordIOManager
from lance_pipeline.orchestration.records import Record

AnyRecord = TypeVar("AnyRecord", bound=Record)
Answer = Callable[[AnyRecord, Collection[str]], Iterable[dg.AssetCheckResult]]
"""Takes the record of a version and the names of checks, and says what each of them finds in that version."""


def selected_checks(context: dg.AssetExecutionContext, key: dg.AssetKey) -> list[str]:
    """The names of an asset's checks that this run is to evaluate."""
    return sorted(check.name for check in context.selected_asset_check_keys if check.asset_key == key)


def is_asked_alone(context: dg.AssetExecutionContext, key: dg.AssetKey) -> bool:
    """Whether this run is to evaluate checks of an asset that it does not materialize."""
    return bool(selected_checks(context, key)) and key not in context.selected_asset_keys


def answers(
    context: dg.AssetExecutionContext,
    records: RecordIOManager,
    key: dg.AssetKey,
    record_type: type[AnyRecord],
    answer: Answer[AnyRecord],
) -> Iterator[dg.AssetCheckResult]:
    """The results of an asset's selected checks, from the version that its latest materialization names.

    Nothing, where the run materializes the asset: its checks belong to the version that is being made. Checks of an
    asset that was never materialized fail and say so.

    Args:
        context: of the step whose op has these checks; the op needs ``can_subset=True``.
        records: where the asset's record is.
        key: the asset's.
        record_type: the type of its record.
        answer: evaluates checks on the version of a record.

    Raises:
        InputError: the version cannot be read.
    """
    if not is_asked_alone(context, key):
        return
    names = selected_checks(context, key)
    if context.instance.get_latest_materialization_event(key) is None:
        yield from never_materialized(key, [dg.AssetCheckKey(key, name) for name in names])
        return
    yield from answer(records.read(context.instance, key, record_type), names)


def never_materialized(key: dg.AssetKey, checks: Iterable[dg.AssetCheckKey]) -> Iterator[dg.AssetCheckResult]:
    """The results of checks that need a version of an asset of which there is none."""
    for check in checks:
        yield dg.AssetCheckResult(
            asset_key=check.asset_key,
            check_name=check.name,
            passed=False,
            severity=dg.AssetCheckSeverity.WARN,
            description=f"{key.to_user_string()} was never materialized, so there is nothing to check. "
            f"Run: {materialize_command(key)}",
        )
