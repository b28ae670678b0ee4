"""A Dagster instance for the benchmark, and the times of its events."""

import os
import shutil
from dataclasses import dataclass

import dagster as dg

from benchmarks.measure import REPO


@dataclass(frozen=True)
class Moment:
    """An event of a run, such as ``STEP_START``, with its Unix time; events of the run itself have no step."""

    event: str
    step: str
    at: float


def make_instance(data: str) -> str:
    """Create an instance with the project's settings in a data folder for this process; returns its own folder."""
    home = os.path.join(data, "dagster")
    os.makedirs(home, exist_ok=True)
    os.environ["DAGSTER_HOME"] = home
    shutil.copyfile(os.path.join(REPO, "dagster.yaml"), os.path.join(home, "dagster.yaml"))
    return home


def moments_of(instance: dg.DagsterInstance, run_id: str) -> list[Moment]:
    """All events of a run, in order."""
    return [
        Moment(entry.dagster_event.event_type_value, entry.step_key or "", entry.timestamp)
        for entry in instance.all_logs(run_id)
        if entry.dagster_event is not None
    ]


def first(moments: list[Moment], event: str, step: str = "") -> float:
    """The time of the first such event, in this step or in any."""
    return min(one.at for one in moments if one.event == event and step in one.step)


def last(moments: list[Moment], event: str, step: str = "") -> float:
    """The time of the last such event."""
    return max(one.at for one in moments if one.event == event and step in one.step)
