"""What several kinds of tests share: a data folder of their own, and one real run of the demo."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from lance_pipeline.images import LanceSplit
from lance_pipeline_tests.image_folders import ingest_folder, write_image_folder

SPLIT_COUNTS = {"train": {"cat": 8, "dog": 8}, "val": {"cat": 4, "dog": 4}}
PROJECT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Shell:
    """A shell in a folder of its own, whose runs write to a data folder of their own."""

    folder: Path
    data: Path

    @property
    def environment(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if key not in ("MLFLOW_TRACKING_URI", "PYTHONWARNINGS")}
        return kept | {"LANCE_PIPELINE_DATA": str(self.data), "DAGSTER_HOME": str(self.data / "dagster")}

    def run(self, *command: str, timeout: float = 500) -> subprocess.CompletedProcess[str]:
        """Run ``python -m <command>`` and return its output and status."""
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
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


def _shell(folder: Path) -> Shell:
    shell = Shell(folder / "elsewhere", folder / "data")
    for made in (shell.folder, shell.data / "dagster"):
        made.mkdir(parents=True)
    (shell.data / "dagster" / "dagster.yaml").write_text((PROJECT / "dagster.yaml").read_text())
    return shell


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Loaders without a place of their own keep no images in the user's folder."""
    os.environ["LANCE_PIPELINE_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """A shell with an empty data folder."""
    return _shell(tmp_path)


@dataclass(frozen=True)
class Demo:
    """The demo's run: the shell that it ran in and what it printed."""

    shell: Shell
    output: str


@pytest.fixture(scope="session")
def splits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LanceSplit]:
    """Two small splits that tests only read."""
    root = write_image_folder(tmp_path_factory.mktemp("folder"), SPLIT_COUNTS)
    uris = ingest_folder(root, tmp_path_factory.mktemp("lance"))
    return {split: LanceSplit(uri) for split, uri in uris.items()}


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """The demo as a user runs it from the shell, once for all tests that look at what came of it."""
    shell = _shell(tmp_path_factory.mktemp("demo"))
    finished = shell.materialize("group:digits")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return Demo(shell, finished.stdout + finished.stderr)
