"""Runs whose process is gone, on this host and on others that share the instance."""

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from lance_pipeline.orchestration.runtime.dead_runs import PROCESS_TAG, SILENT_SECONDS, end_dead_runs
from lance_pipeline.storage.locking import try_lock
from lance_pipeline_tests.conftest import Shell

HERE = f"{socket.gethostname()}:1"
QUIET = """
import dagster as dg
from lance_pipeline.orchestration.runtime.executor import default_executor

@dg.asset
def quiet():
    pass

defs = dg.Definitions([quiet], executor=default_executor())
"""


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        yield instance


@dg.job
def nothing():
    pass


class Runs:
    """Runs that count as running, each with its file."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self._instance = instance
        self.folder = Path(instance.root_directory, "running")
        self.folder.mkdir()
        self.warnings: list[str] = []

    def start(self, process: str, silent: float = 0) -> str:
        tags = {PROCESS_TAG: process}
        run_id = self._instance.create_run_for_job(nothing, status=dg.DagsterRunStatus.STARTED, tags=tags).run_id
        file = self.folder / f"{run_id}.run"
        file.touch()
        os.utime(file, (time.time() - silent, time.time() - silent))
        return run_id

    def sweep(self) -> None:
        end_dead_runs(self._instance, dg.DagsterRun("nothing").run_id, self.warnings.append)

    def status(self, run_id: str) -> str:
        run = self._instance.get_run_by_id(run_id)
        assert run is not None
        return run.status.value


def test_an_unlocked_file_says_something_of_this_host_only(instance: dg.DagsterInstance):
    runs = Runs(instance)
    dead, other = runs.start(HERE), runs.start("elsewhere:1")
    alive = runs.start(HERE, silent=2 * SILENT_SECONDS)
    lock = try_lock(runs.folder / f"{alive}.run", "X")
    assert lock is not None
    runs.sweep()
    assert (runs.status(dead), runs.status(other), runs.status(alive)) == ("FAILURE", "STARTED", "STARTED")
    lock.release()
    runs.sweep()
    assert (runs.status(other), runs.status(alive)) == ("STARTED", "FAILURE")
    assert not runs.warnings


def test_a_run_of_another_host_is_gone_once_it_is_silent(instance: dg.DagsterInstance):
    runs = Runs(instance)
    silent, beating = (runs.start("elsewhere:1", SILENT_SECONDS + more) for more in (60, -60))
    runs.sweep()
    assert (runs.status(silent), runs.status(beating)) == ("FAILURE", "STARTED")
    assert {file.stem for file in runs.folder.glob("*.run")} > {beating}
    assert silent not in {file.stem for file in runs.folder.glob("*.run")}


def test_a_run_that_cannot_be_judged_keeps_no_other_from_being_ended(instance: dg.DagsterInstance):
    runs = Runs(instance)
    odd, *dead = sorted(runs.start(HERE) for _ in range(4))
    (runs.folder / f"{odd}.run").unlink()
    (runs.folder / f"{odd}.run").mkdir()
    runs.sweep()
    assert {runs.status(run_id) for run_id in dead} == {"FAILURE"}
    (warning,) = runs.warnings
    assert odd in warning


def test_a_sweep_that_fails_does_not_fail_the_new_run(shell: Shell):
    (shell.data / "dagster" / "running").write_text("in the way")
    (shell.folder / "quietly.py").write_text(QUIET)
    finished = shell.run("dagster", "asset", "materialize", "-m", "quietly", "--select", "quiet")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "WARNING" in finished.stdout + finished.stderr
    assert str(shell.data / "dagster" / "running") in finished.stdout + finished.stderr
