"""What several kinds of tests share: a data folder of their own, and one real run of the demo."""

import gc
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import dagster as dg
import pytest

from lance_pipeline.images import LanceSplit
from lance_pipeline_tests.image_folders import TRAIN_COUNTS, ingest_folder, write_image_folder

SPLIT_COUNTS = {"train": {"cat": 8, "dog": 8}, "val": {"cat": 4, "dog": 4}}
PROJECT = Path(__file__).parents[1]
_UNSET = ("DAGSTER_HOME", "MLFLOW_TRACKING_URI", "LANCE_PIPELINE_MLFLOW_UI", "PYTHONWARNINGS")


@dataclass(frozen=True)
class Shell:
    """A shell in a folder of its own, whose runs write to a data folder of their own."""

    folder: Path
    data: Path
    variables: Mapping[str, str] = field(default_factory=dict)

    @contextmanager
    def instance(self) -> Iterator[dg.DagsterInstance]:
        """Dagster's instance of the data folder, in this process."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DAGSTER_HOME", str(self.data / "dagster"))
            with dg.DagsterInstance.get() as instance:
                yield instance

    @property
    def environment(self) -> dict[str, str]:
        own = {"LANCE_PIPELINE_DATA": str(self.data), "DAGSTER_HOME": str(self.data / "dagster")}
        # Libraries that tests use in this process, such as MLflow, set variables too.
        inherited = {name: value for name, value in os.environ.items() if name not in _UNSET}
        return {**inherited, **own, **self.variables}

    def start(
        self, *command: str, stdout: int | IO[str] = subprocess.PIPE, stderr: int = subprocess.STDOUT
    ) -> subprocess.Popen[str]:
        """``python -m <command>`` in a process group of its own, as a shell starts it."""
        return subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=self.folder,
            env=self.environment,
            stdout=stdout,
            stderr=stderr,
            text=True,
            start_new_session=True,
        )

    def run(self, *command: str, timeout: float = 500) -> subprocess.CompletedProcess[str]:
        """Run ``python -m <command>`` and return its output and status."""
        process = self.start(*command, stderr=subprocess.PIPE)
        try:
            output, errors = process.communicate(timeout=timeout)
        finally:
            # With all its children: a training left behind would slow down everything after it.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)

    def materialize(self, selection: str) -> subprocess.CompletedProcess[str]:
        """``dagster asset materialize`` on the project's code location."""
        command = ("dagster", "asset", "materialize", "-m", "lance_pipeline.definitions", "--select", selection)
        return self.run(*command)


# By what a test uses: the marker, and the fixtures that give it.
_MARKING = {
    "process": {"shell", "demo", "store", "server"},
    "root": {"small_disk"},
    "slow": {"graph", "finished_graph"},
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests are marked by the fixtures they use; those with the marker `cuda` are skipped where there is no device."""
    for item in items:
        used = set(getattr(item, "fixturenames", ()))
        for marker in (marker for marker, fixtures in _MARKING.items() if used & fixtures):
            item.add_marker(marker)
        if "browser" in item.path.parts:
            item.add_marker("browser")
    needing = [item for item in items if item.get_closest_marker("cuda")]
    if needing and not _cuda_is_there():
        for item in needing:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device; this machine has none"))


def _cuda_is_there() -> bool:
    import torch

    return torch.cuda.is_available()


def new_shell(folder: Path, data: Path, variables: Mapping[str, str] | None = None) -> Shell:
    """A shell whose folders are there, and whose instance has the project's settings."""
    for made in (folder, data / "dagster"):
        made.mkdir(parents=True, exist_ok=True)
    (data / "dagster" / "dagster.yaml").write_text((PROJECT / "dagster.yaml").read_text())
    return Shell(folder, data, variables or {})


@pytest.fixture(scope="session", autouse=True)
def _environment(tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test writes to the user's MLflow or Dagster instance, keeps images in their folder, or waits for their GPU."""
    for name in _UNSET:
        os.environ.pop(name, None)
    os.environ["LANCE_PIPELINE_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    os.environ["TMPDIR"] = tempfile.tempdir = str(tmp_path_factory.mktemp("host"))
    # Where devices are held.
    os.environ["XDG_RUNTIME_DIR"] = str(tmp_path_factory.mktemp("runtime"))


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """A shell with an empty data folder."""
    return new_shell(tmp_path / "elsewhere", tmp_path / "data")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Makes an empty disk of a size such as "4m"; asked again, it gives that disk another size."""
    disk = tmp_path / "disk"

    def of_size(size: str) -> Path:
        there = os.path.ismount(disk)
        disk.mkdir(exist_ok=True)
        options = f"{'remount,' * there}size={size}"
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", disk], check=False)
        if mounted.returncode:
            pytest.skip("needs the right to mount a small disk")
        return disk

    yield of_size
    if os.path.ismount(disk):
        # Loaders refer to each other in circles, and keep their files mapped until they are found.
        gc.collect()
        subprocess.run(["umount", disk], check=True)


@dataclass(frozen=True)
class Demo:
    """The demo's run: the shell that it ran in and what it printed."""

    shell: Shell
    output: str


@pytest.fixture(scope="session")
def train_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a train split of three classes, which tests only read."""
    return write_image_folder(tmp_path_factory.mktemp("folder"), {"train": TRAIN_COUNTS})


@pytest.fixture(scope="session")
def train_uri(train_folder: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The Lance dataset of that split."""
    return ingest_folder(train_folder, tmp_path_factory.mktemp("lance"))["train"]


@pytest.fixture
def below_a_file(tmp_path: Path) -> str:
    """A path that nobody, not even root, can write to."""
    (tmp_path / "file").write_text("")
    return str(tmp_path / "file" / "below")


@pytest.fixture(scope="session")
def splits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LanceSplit]:
    """Two small splits that tests only read."""
    root = write_image_folder(tmp_path_factory.mktemp("folder"), SPLIT_COUNTS)
    uris = ingest_folder(root, tmp_path_factory.mktemp("lance"))
    return {split: LanceSplit(uri) for split, uri in uris.items()}


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """The demo as a user runs it from the shell, once for all tests that look at what came of it."""
    folder = tmp_path_factory.mktemp("demo")
    shell = new_shell(folder / "elsewhere", folder / "data")
    finished = shell.materialize("group:digits")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return Demo(shell, finished.stdout + finished.stderr)
