"""Evaluating the checks of an asset on its existing version, without materializing it."""

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import TypeVar

import dagster as dg

from lance_pipeline.orchestration.commands import materialize_command
from lance_pipeline.orchestration.record_io import RecordIOManager
from lance_pipeline.orchestration.records import Record

AnyRecord = TypeVar("AnyRecord", bound=Record)
Answer = Callable[[AnyRecord, Collection[str]], Iterable[dg.AssetCheckResult]]
"""Takes the record of a version and names of checks; returns the results of these checks for that version."""


def selected_checks(context: dg.AssetExecutionContext, key: dg.AssetKey) -> list[str]:
    """The names of an asset's checks that are selected in this run."""
    return sorted(check.name for check in context.selected_asset_check_keys if check.asset_key == key)


def is_asked_alone(context: dg.AssetExecutionContext, key: dg.AssetKey) -> bool:
    """Whether this run evaluates checks of an asset without materializing it."""
    return bool(selected_checks(context, key)) and key not in context.selected_asset_keys


def answers(
    context: dg.AssetExecutionContext,
    records: RecordIOManager,
    key: dg.AssetKey,
    record_type: type[AnyRecord],
    answer: Answer[AnyRecord],
) -> Iterator[dg.AssetCheckResult]:
    """The results of an asset's selected checks, for the version in its latest materialization.

    Yields nothing if the run materializes the asset, because its checks then belong to the new version. Checks of an
    asset that was never materialized fail and say so.

    Args:
        context: the context of the step with these checks; its op needs ``can_subset=True``.
        records: stores the asset's record.
        key: the key of the asset.
        record_type: the type of its record.
        answer: evaluates checks for the version in a record.

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
    """Failed results for checks of an asset that has no version."""
    for check in checks:
        yield dg.AssetCheckResult(
            asset_key=check.asset_key,
            check_name=check.name,
            passed=False,
            severity=dg.AssetCheckSeverity.WARN,
            description=f"{key.to_user_string()} was never materialized, so there is nothing to check. "
            f"Run: {materialize_command(key)}",
        )
