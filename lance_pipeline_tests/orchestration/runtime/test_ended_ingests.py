"""An ingest ends when its executor is lost or its run was ended; the next ingest makes up for it."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable

import pytest

from lance_pipeline.images import LanceSplit
from lance_pipeline.storage.table_lock import locked
from lance_pipeline_tests.orchestration.trainings import Project, read_until, training_project
from lance_pipeline_tests.small_project import CLASSES


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return training_project(tmp_path_factory.mktemp("project"))


def kill_executor(_: Project, process: subprocess.Popen[str]) -> None:
    os.kill(process.pid, signal.SIGKILL)


def mark_as_canceled(project: Project, _: subprocess.Popen[str]) -> None:
    project.mark_as_canceled(project.latest_run())


@pytest.mark.parametrize(("how", "status"), [(kill_executor, "FAILURE"), (mark_as_canceled, "CANCELED")])
def test_an_ingest_ends_with_its_run(
    project: Project, how: Callable[[Project, subprocess.Popen[str]], None], status: str
):
    folder = project.root / "images" / "flowers" / "train" / CLASSES[0]
    shutil.copyfile(folder / "000.png", folder / f"{status}.png")
    uri = str(project.data / "lance" / "flowers_train.lance")
    rows = len(LanceSplit(uri))
    # While the table is locked, the ingest cannot end by itself.
    with locked([uri]):
        process = project.start("raw_images", "lance_train")
        read_until(process, "Waiting for another ingest")
        how(project, process)
        process.communicate(timeout=60)
        assert project.processes() == set()
    assert len(LanceSplit(uri)) == rows

    project.materialize("raw_images", "lance_train")
    assert project.dagster_statuses()[:2] == ["SUCCESS", status]
    paths = LanceSplit(uri).to_table(["path"])["path"].to_pylist()
    assert len(paths) == len(set(paths)) == rows + 1
    assert f"{CLASSES[0]}/{status}.png" in paths
