"""Prevents materializing everything by mistake."""

import re
import sys
from typing import TYPE_CHECKING

from dagster._core.definitions.assets.job.asset_job import is_reserved_asset_job_name

from lance_pipeline.errors import InputError
from lance_pipeline.orchestration.commands import LIST_COMMAND
from lance_pipeline.orchestration.nearest import did_you_mean

if TYPE_CHECKING:
    from dagster._core.execution.context.system import PlanOrchestrationContext

_NAMES = re.compile(r"[\w/-]+")
# Keywords of Dagster's selection syntax.
_WORDS = {"group", "key", "tag", "owner", "kind", "and", "or", "not", "sinks", "roots"}


def require_selection(plan_context: "PlanOrchestrationContext") -> None:
    """Refuse a run of all assets that nobody asked for.

    A selection that matches nothing creates a run without a selection, which materializes everything. The UI's
    "Materialize all" selects the assets by name.

    Raises:
        InputError: the run has no selection.
    """
    run = plan_context.dagster_run
    if run.asset_selection or run.asset_check_selection or not is_reserved_asset_job_name(run.job_name):
        return
    graph = plan_context.job.get_definition().asset_layer.asset_graph
    groups = sorted({graph.get(key).group_name or "" for key in graph.materializable_asset_keys})
    raise InputError(
        f"the selection of this run matches no asset, and all {len(graph.materializable_asset_keys)} would be "
        f"materialized.{_suggestion(groups)} There are the groups {', '.join(groups)}; `{LIST_COMMAND}` "
        "lists all assets. Select `*` to materialize everything."
    )


def _suggestion(groups: list[str]) -> str:
    """A hint at the intended group, if this process's command line reveals it."""
    asked = [word.split("/")[0] for word in _NAMES.findall(_selection(sys.argv)) if word not in _WORDS]
    return next(filter(None, (did_you_mean(word, groups, "`group:{}`".format) for word in asked)), "")


def _selection(command: list[str]) -> str:
    """The value of `--select`; empty in a process started by the UI."""
    text = " ".join(command)
    return text.partition("--select")[2].partition(" --")[0]
