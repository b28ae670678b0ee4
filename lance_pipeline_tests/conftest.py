"""Fixtures shared by all tests: isolated data folders, and one real run of the demo."""

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
PLAIN_PACKAGES = ("storage", "imaging", "sources", "ingest", "loader", "quality", "training", "evaluation")
"""The packages that work without Dagster and change nothing of their process."""
_UNSET = ("DAGSTER_HOME", "MLFLOW_TRACKING_URI", "LANCE_PIPELINE_MLFLOW_UI", "PYTHONWARNINGS")


@dataclass(frozen=True)
class Shell:
    """Runs commands in its own working folder, with its own data folder."""

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
        # Libraries used by tests in this process, such as MLflow, set variables as well.
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
            # With all its children: a leftover training would slow down all following tests.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)

    def materialize(self, selection: str) -> subprocess.CompletedProcess[str]:
        """``dagster asset materialize`` on the project's code location."""
        command = ("dagster", "asset", "materialize", "-m", "lance_pipeline.definitions", "--select", selection)
        return self.run(*command)


# Files whose tests take more than 15 seconds, even without those that fixtures mark.
_SLOW_FILES = {
    "benchmarks/test_gpu", "ingest/test_increments", "ingest/test_interruptions", "ingest/test_processes",
    "loader/test_cache", "loader/test_modes", "orchestration/cli/test_command_line", "orchestration/pages/test_pages",
    "orchestration/retention/test_bounds", "orchestration/runtime/test_cancelling",
    "orchestration/runtime/test_own_process", "orchestration/test_damages", "orchestration/test_full_disk",
    "orchestration/test_hostile_names", "orchestration/test_loading", "orchestration/test_secrets",
    "orchestration/tracking/test_tracking", "orchestration/trials/test_experiment", "sources/unpacking/test_memory",
    "test_documentation", "training/test_checkpoint", "training/test_networks", "training/test_precision",
}  # fmt: skip
_SLOW_FOLDERS = {"orchestration", "browser", "benchmarks"}
# By what a test uses: the marker, and the fixtures that give it.
_MARKING = {
    "process": {"shell", "demo", "store", "server", "project"},
    "root": {"small_disk"},
    "slow": {"graph", "finished_graph"},
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by fixtures and files; skip those marked `cuda` where there is no device."""
    for item in items:
        used = set(getattr(item, "fixturenames", ()))
        for marker in (marker for marker, fixtures in _MARKING.items() if used & fixtures):
            item.add_marker(marker)
        if "browser" in item.path.parts:
            item.add_marker("browser")
        if item.path.relative_to(Path(__file__).parent).with_suffix("").as_posix() in _SLOW_FILES:
            item.add_marker("slow")
    # The slowest files first, so that all workers end at about the same time.
    items.sort(key=lambda item: not _SLOW_FOLDERS & set(item.path.parts))
    needing = [item for item in items if item.get_closest_marker("cuda")]
    if needing and not _cuda_is_there():
        for item in needing:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device; this machine has none"))


def _cuda_is_there() -> bool:
    import torch

    return torch.cuda.is_available()


def new_shell(folder: Path, data: Path, variables: Mapping[str, str] | None = None) -> Shell:
    """A shell with existing folders, whose Dagster instance has the project's settings."""
    for made in (folder, data / "dagster"):
        made.mkdir(parents=True, exist_ok=True)
    (data / "dagster" / "dagster.yaml").write_text((PROJECT / "dagster.yaml").read_text())
    return Shell(folder, data, variables or {})


@pytest.fixture(scope="session", autouse=True)
def _environment(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Isolates all tests from the user's MLflow, Dagster instance, image cache and device locks."""
    for name in _UNSET:
        os.environ.pop(name, None)
    # As in the pipeline's own processes; otherwise MLflow would try for minutes to reach a server that is away.
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "1"
    os.environ["LANCE_PIPELINE_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    os.environ["TMPDIR"] = tempfile.tempdir = str(tmp_path_factory.mktemp("host"))
    # The folder of device locks.
    os.environ["XDG_RUNTIME_DIR"] = str(tmp_path_factory.mktemp("runtime"))


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """A shell with an empty data folder."""
    return new_shell(tmp_path / "elsewhere", tmp_path / "data")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Creates an empty disk of a size such as "4m"; another call resizes the disk."""
    disk = tmp_path / "disk"

    def of_size(size: str) -> Path:
        exists = os.path.ismount(disk)
        disk.mkdir(exist_ok=True)
        options = f"{'remount,' * exists}size={size}"
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", disk], check=False)
        if mounted.returncode:
            pytest.skip("needs permission to mount a small disk")
        return disk

    yield of_size
    if os.path.ismount(disk):
        # Loaders are in reference cycles, and keep their files mapped until they are collected.
        gc.collect()
        subprocess.run(["umount", disk], check=True)


@dataclass(frozen=True)
class Demo:
    """The run of the demo: its shell and its output."""

    shell: Shell
    output: str


@pytest.fixture(scope="session")
def train_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a train split of three classes; tests must not change it."""
    return write_image_folder(tmp_path_factory.mktemp("folder"), {"train": TRAIN_COUNTS})


@pytest.fixture(scope="session")
def train_uri(train_folder: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The Lance dataset of that split."""
    return ingest_folder(train_folder, tmp_path_factory.mktemp("lance"))["train"]


@pytest.fixture
def below_a_file(tmp_path: Path) -> str:
    """A path that cannot be written, even by root."""
    (tmp_path / "file").write_text("")
    return str(tmp_path / "file" / "below")


@pytest.fixture(scope="session")
def splits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LanceSplit]:
    """Two small splits; tests must not change them."""
    root = write_image_folder(tmp_path_factory.mktemp("folder"), SPLIT_COUNTS)
    uris = ingest_folder(root, tmp_path_factory.mktemp("lance"))
    return {split: LanceSplit(uri) for split, uri in uris.items()}


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """The demo, run once from the shell as by a user, for all tests that examine its results."""
    folder = tmp_path_factory.mktemp("demo")
    shell = new_shell(folder / "elsewhere", folder / "data")
    finished = shell.materialize("group:digits")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return Demo(shell, finished.stdout + finished.stderr)
