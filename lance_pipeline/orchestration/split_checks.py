"""The checks of a split as Dagster asset checks."""

import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg

from lance_pipeline.display import printable
from lance_pipeline.errors import InputError
from lance_pipeline.orchestration.metadata import picture, shown
from lance_pipeline.quality.split_checks import CheckSettings, SplitCheck

if TYPE_CHECKING:
    from lance_pipeline.quality.check_outcomes import Outcome

_logger = logging.getLogger(__name__)


def check_specs(key: dg.AssetKey, checks: Iterable[SplitCheck], settings: CheckSettings) -> list[dg.AssetCheckSpec]:
    """The specs of the checks of a split's asset."""
    return [
        dg.AssetCheckSpec(one.name, asset=key, description=one.description, blocking=one.blocks(settings))
        for one in checks
    ]


def check_result(outcome: "Outcome", key: dg.AssetKey) -> dg.AssetCheckResult:
    """The Dagster result of a check of the asset ``key``; a failure is also logged."""
    name = outcome.check.name
    if not outcome.passed:
        expected = outcome.check.description
        _logger.warning(printable(f"{outcome.split}: {name}: {outcome.summary}. Expected: {expected}"))
    metadata: dict[str, Any] = dict(outcome.numbers)
    if outcome.full_list:
        metadata["full_list"] = dg.MetadataValue.path(str(outcome.full_list))
    if outcome.examples:
        metadata["examples"] = picture(outcome.examples)
    return dg.AssetCheckResult(
        asset_key=key,
        check_name=name,
        passed=outcome.passed,
        severity=dg.AssetCheckSeverity.ERROR if outcome.blocks else dg.AssetCheckSeverity.WARN,
        metadata=shown(metadata),
    )


def blocking_failures(outcomes: "Sequence[Outcome]") -> list[str]:
    """The failed blocking checks, one line each."""
    lines = []
    for one in outcomes:
        if one.blocks and not one.passed:
            found = one.numbers | ({"full_list": one.full_list} if one.full_list else {})
            lines.append(
                f"{one.split}: {one.check.name}: " + ", ".join(f"{name} {value}" for name, value in found.items())
            )
    return lines


def require_blocking(failures: list[str]) -> None:
    """Stop if a blocking check failed.

    Raises:
        InputError: there are failures.
    """
    if failures:
        raise InputError(
            [
                "Blocking checks failed:",
                *(f"  {failure}" for failure in failures),
                "Fix the folder, or set what a check stops at under `checks`.",
                "If another tool has changed the Lance dataset, delete it and materialize it again.",
            ]
        )
