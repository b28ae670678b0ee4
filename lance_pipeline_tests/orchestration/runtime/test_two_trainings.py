"""Two trainings started at once, as by two users, that want the same device."""

import os
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import dagster as dg
import pytest

from lance_pipeline_tests.browser.launcher import await_condition
from lance_pipeline_tests.orchestration.trainings import Project, training_project
from lance_pipeline_tests.processes import processor_seconds

# Enough epochs that the first training is still running while the second waits, whatever their start times.
EPOCHS = 8


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with a second dataset, `meadow`, of the same images."""
    project = training_project(tmp_path_factory.mktemp("project"), EPOCHS)
    project.defs.write_text(project.defs.read_text() + "  device: cpu\n")
    shutil.copytree(project.defs.parent, project.defs.parent.with_name("meadow"))
    project.materialize("raw_images", "lance_train", "lance_val", dataset="meadow")
    return project


def waits(project: Project, run_id: str) -> list[tuple[str, int]]:
    """The observations in which the run reported waiting, each with the process id of the step."""
    found = []
    with project.instance() as instance:
        for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_OBSERVATION):
            observed, event = entry.asset_observation, entry.dagster_event
            if observed is not None and "waiting" in observed.metadata:
                assert event is not None
                assert event.pid is not None
                found.append((str(observed.metadata["waiting"].value), event.pid))
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only Linux tells the processor time of others")
@pytest.mark.parametrize(
    ("other", "wanted"), [("meadow", "cpu"), ("flowers", "{data}/checkpoints/flowers")], ids=["device", "dataset"]
)
def test_the_second_sleeps_and_says_for_whom(project: Project, other: str, wanted: str):
    before = set(project.runs())
    processes = [project.start("resnet34", dataset=dataset) for dataset in ("flowers", other)]

    def of_runs() -> dict[str, list[tuple[str, int]]]:
        return {run_id: waits(project, run_id) for run_id in project.runs() if run_id not in before}

    await_condition(lambda: "resnet34 (run" in str(of_runs()), 100, "one of the two waits")
    told = of_runs()
    (second,) = (run_id for run_id, waited in told.items() if waited)
    (first,) = told.keys() - {second}
    text, step = told[second][-1]
    assert wanted.format(data=project.data) in text
    assert f"/resnet34 (run {first[:8]}, process " in text
    assert text in project.log(second)
    used = processor_seconds(step)
    time.sleep(2)
    assert processor_seconds(step) - used < 0.5
    # Otherwise this would have measured training rather than waiting.
    assert "Training on cpu" not in project.log(second)

    outputs = [process.communicate(timeout=200)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    # Waiting was not reported again.
    assert of_runs() == told
    assert project.dagster_statuses()[:2] == ["SUCCESS"] * 2


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
@pytest.mark.parametrize("variable", ["LANCE_PIPELINE_THREADS=1", "LANCE_PIPELINE_EXCLUSIVE=false"])
def test_two_run_side_by_side_where_they_may(project: Project, variable: str):
    name, _, value = variable.partition("=")
    shell = replace(project.shell, variables={**project.shell.variables, name: value})
    sharing = Project(shell)
    before = set(sharing.runs())
    processes = [sharing.start("resnet34", dataset=dataset) for dataset in ("flowers", "meadow")]

    def training() -> list[str]:
        return [run for run in sharing.runs() if run not in before and "Epoch 1/" in sharing.log(run)]

    try:
        await_condition(lambda: len(training()) == 2, 200, "both train")
        # Each has started while the other was running.
        assert [process.poll() for process in processes] == [None, None]
        assert [waits(sharing, run) for run in training()] == [[], []]
        if name == "LANCE_PIPELINE_THREADS":
            outputs = [process.communicate(timeout=300)[0] for process in processes]
            assert [process.returncode for process in processes] == [0, 0], outputs
    finally:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
