"""The disk with all data fills up before each step: the error says so, and with more space the same command works."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lance_pipeline_tests.conftest import Shell
from lance_pipeline_tests.orchestration.trainings import Project, training_project

SIZE = "2g"
NAMED = "no space is left on the disk to write"
# Free KB at the start of a step: each value fills the disk in a different store.
STEPS = {
    "Dagster's databases, before a run": (("raw_images",), 200),
    "Dagster's databases, in a run": (("lance_train", "lance_val", "lance_test"), 650),
    "checkpoints": (("resnet34",), 3_000),
    "MLflow and the records": (("metrics_test",), 500),
}
COMMANDS = (("summary", "flowers"), ("databases",), ("databases", "--replace"))


class SmallDisk:
    """A disk with a limited number of free bytes."""

    def __init__(self, of_size: Callable[[str], Path]) -> None:
        self._of_size = of_size
        self.folder = of_size(SIZE)

    def leave(self, kilobytes: int) -> None:
        # A size of 0 would mean no limit.
        self._of_size(f"{max(shutil.disk_usage(self.folder).used // 1024 + kilobytes, 4)}k")

    def enlarge(self) -> None:
        self._of_size(SIZE)


def output_of(project: Project, *assets: str) -> tuple[int, str]:
    process = project.start(*assets)
    output, _ = process.communicate(timeout=200)
    return process.returncode, output


def assert_told(shell: Shell, *command: str) -> None:
    finished = shell.run("lance_pipeline", *command)
    assert finished.returncode == 1
    assert NAMED in finished.stderr
    assert "Traceback" not in finished.stderr
    assert "damaged" not in finished.stdout + finished.stderr


def test_a_disk_that_fills_up(small_disk: Callable[[str], Path]):
    disk = SmallDisk(small_disk)
    project = training_project(disk.folder / "project", epochs=1)
    images = project.root / "images" / "flowers" / "train"
    shutil.copyfile(images / "dog rose" / "000.png", images / "dog rose" / "more.png")
    for store, (assets, kilobytes) in STEPS.items():
        disk.leave(kilobytes)
        status, output = output_of(project, *assets)
        assert status != 0, store
        assert NAMED in output, f"{store}: {output}"
        disk.enlarge()
        status, output = output_of(project, *assets)
        assert status == 0, f"{store}: {output}"

    disk.leave(0)
    for command in COMMANDS:
        assert_told(project.shell, *command)
    finished = project.shell.run("lance_pipeline", "disk", "-m", "small.definitions")
    assert finished.returncode == 0, finished.stderr
    assert str(project.data / "cache") in finished.stdout


@pytest.mark.parametrize("damage", [b"no database", b""])
def test_a_damaged_database_is_named_by_dagsters_own_command(tmp_path: Path, damage: bytes):
    project = training_project(tmp_path / "project", epochs=1)
    database = project.data / "dagster" / "history" / "runs.db"
    database.write_bytes(damage + database.read_bytes()[len(damage) : 5000])
    status, output = output_of(project, "raw_images")
    assert status == 1
    assert f"the database {database} is damaged" in output
    assert "Traceback" not in output
    assert project.shell.run("lance_pipeline", "databases", "--replace").returncode == 0
    project.materialize("raw_images")
