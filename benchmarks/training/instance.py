"""A Dagster instance of the benchmark's own, and when what happened in it."""

import os
import shutil
from dataclasses import dataclass

import dagster as dg

from benchmarks.measure import REPO


@dataclass(frozen=True)
class Moment:
    """An event of a run, such as ``STEP_START``, with its Unix time; the step is empty for those of the run itself."""

    event: str
    step: str
    at: float


def make_instance(data: str) -> str:
    """Make an instance with the project's settings in a data folder, and this process's; returns its own folder."""
    home = os.path.join(data, "dagster")
    os.makedirs(home, exist_ok=True)
    os.environ["DAGSTER_HOME"] = home
    shutil.copyfile(os.path.join(REPO, "dagster.yaml"), os.path.join(home, "dagster.yaml"))
    return home


def moments_of(instance: dg.DagsterInstance, run_id: str) -> list[Moment]:
    """All events of a run, in their order."""
    return [
        Moment(entry.dagster_event.event_type_value, entry.step_key or "", entry.timestamp)
        for entry in instance.all_logs(run_id)
        if entry.dagster_event is not None
    ]


def first(moments: list[Moment], event: str, step: str = "") -> float:
    """When it first happened, in this step or in whichever was the first."""
    return min(one.at for one in moments if one.event == event and step in one.step)


def last(moments: list[Moment], event: str, step: str = "") -> float:
    """When it last happened."""
    return max(one.at for one in moments if one.event == event and step in one.step)
