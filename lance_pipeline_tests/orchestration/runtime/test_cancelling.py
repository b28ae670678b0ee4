"""Trainings cancelled in the Dagster UI, and pool slots left by a killed one."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster_graphql import DagsterGraphQLClient

from lance_pipeline.orchestration.assets.model import POOL
from lance_pipeline_tests.browser.launcher import HOST, Launcher, await_condition
from lance_pipeline_tests.orchestration.trainings import Project, end, read_until, training_project
from lance_pipeline_tests.processes import processes_of

# The UI's dialog sends these, without and with "force termination immediately" ticked.
SAFE, FORCED = "SAFE_TERMINATE", "MARK_AS_CANCELED_IMMEDIATELY"
TERMINATE = """
mutation ($run: String!, $policy: TerminateRunPolicy!) {
  terminateRun(runId: $run, terminatePolicy: $policy) { __typename }
}
"""
# Enough epochs that a training is still running when it notices its run's new status.
EPOCHS = 12

pytestmark = pytest.mark.filterwarnings("ignore:Using variable_values:DeprecationWarning")  # of dagster_graphql


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return training_project(tmp_path, EPOCHS)


@pytest.fixture
def ui(project: Project, monkeypatch: pytest.MonkeyPatch) -> Iterator[Launcher]:
    """The UI with the project's data."""
    for name, value in project.shell.variables.items():
        monkeypatch.setenv(name, value)
    with Launcher(project.root / "ui", project.data, project.root / "workspace.yaml") as launcher:
        launcher.await_ready()
        yield launcher


def launch(ui: Launcher) -> str:
    """Materialize the model from the UI; returns the run's id."""
    return DagsterGraphQLClient(HOST, ui.port).submit_job_execution(
        "__ASSET_JOB", "small", "__repository__", asset_selection=[["flowers", "resnet34"]]
    )


def terminate(ui: Launcher, run_id: str, policy: str) -> str:
    """Terminate the run as the UI does; returns the type of the response."""
    answer = DagsterGraphQLClient(HOST, ui.port)._execute(TERMINATE, {"run": run_id, "policy": policy})
    return answer["terminateRun"]["__typename"]


def run_processes(project: Project) -> set[int]:
    """The living processes except multiprocessing's tracker, which the UI keeps after its first run."""
    return {number for number, command in processes_of(project.data).items() if "resource_tracker" not in command}


def test_a_cancelled_training_goes_on(project: Project, ui: Launcher):
    servers = run_processes(project)
    assert ui.process.pid in servers
    # With one slot, this also shows that the UI's run does not wait for the slot of a killed run.
    with project.instance() as instance:
        instance.event_log_storage.set_concurrency_slots(POOL, 1)
    process = project.start("resnet34")
    read_until(process, rf"Epoch 1/{EPOCHS}:")
    end(process, "SIGKILL to the group")

    def await_end(runs: int) -> None:
        await_condition(lambda: run_processes(project) == servers, 60, "the run's processes have ended")
        assert project.dagster_statuses() == [*["CANCELED"] * runs, "FAILURE", "SUCCESS"]
        assert project.mlflow_statuses() == ["KILLED"]

    launched = launch(ui)
    await_condition(lambda: "Epoch 2/" in project.log(launched), 100, "another epoch is over")
    assert terminate(ui, launched, SAFE) == "TerminateRunSuccess"
    await_end(1)

    # For a run started in a shell the UI can only change the status; with the safe policy it reports a failure.
    for number, (policy, answer) in enumerate([(FORCED, "TerminateRunSuccess"), (SAFE, "TerminateRunFailure")], 2):
        process = project.start("resnet34")
        output = read_until(process, rf"Epoch \d+/{EPOCHS}:")
        assert "Resuming training" in output
        assert terminate(ui, project.latest_run(), policy) == answer
        process.communicate(timeout=60)
        await_end(number)

    output = project.materialize("resnet34")
    assert "Resuming training" in output
    assert project.mlflow_statuses() == ["FINISHED"]
    series = project.series(project.model().mlflow_run_id)
    assert {tuple(step for step, _ in points) for points in series.values()} == {tuple(range(1, EPOCHS + 1))}


def test_the_pool_slot_of_a_killed_training_is_free_again(tmp_path: Path):
    """Only the next run itself can free the slot, even where the killed run was ended in the UI."""
    project = training_project(tmp_path, epochs=2)
    with project.instance() as instance:
        storage = instance.event_log_storage
        storage.set_concurrency_slots(POOL, 1)
        for status in ("FAILURE", "CANCELED"):
            process = project.start("resnet34")
            read_until(process, r"Epoch 1/2:")
            end(process, "SIGKILL to the group")
            killed = project.latest_run()
            if status == "CANCELED":
                project.mark_as_canceled(killed)
            assert storage.get_concurrency_info(POOL).active_run_ids == {killed}

            assert "blocked" not in project.materialize("resnet34")
            assert storage.get_concurrency_info(POOL).active_run_ids == set()
            assert project.dagster_statuses()[:2] == ["SUCCESS", status]
