"""``python -m lance_pipeline ui`` as a separate process, as `make ui` starts it."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

from lance_pipeline_tests.processes import processes_of

HOST = "127.0.0.1"
_START_SECONDS = 240
_STOP_SECONDS = 120


def await_condition(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait until the condition holds; on a timeout, fail naming ``what``."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} seconds: {what}")
        time.sleep(0.1)


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as free:
        free.bind((HOST, 0))
        return free.getsockname()[1]


def is_free(port: int) -> bool:
    """Whether a server could listen on the port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


class Launcher:
    """The launcher, in a separate folder; leaving the context stops it.

    Args:
        folder: working folder; output goes to a file there, because a full pipe would block the process.
        data: the data folder.
        workspace: the ``workspace.yaml`` to serve; None means the project's.
        port: None means a free port.
        options: additional command-line options.
        variables: additional environment variables.
    """

    def __init__(
        self,
        folder: Path,
        data: Path,
        workspace: Path | None = None,
        port: int | None = None,
        options: Sequence[str] = (),
        variables: Mapping[str, str] | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.data, self.workspace = data, workspace
        self.port = port or free_port()
        command = ["lance_pipeline", "ui", "--port", str(self.port), *options]
        if workspace is not None:
            command += ["--workspace", str(workspace)]
        self._log = folder / "ui.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=folder,
                env=os.environ | {"LANCE_PIPELINE_DATA": str(data)} | dict(variables or {}),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self.process.poll() is None:
                self.stop(signal.SIGTERM)
        finally:
            self.process.kill()
            self.process.wait()

    @property
    def dagster(self) -> str:
        """The address of the Dagster UI."""
        return f"http://{HOST}:{self.port}"

    @property
    def mlflow(self) -> str:
        """The address of the MLflow UI."""
        return f"{self.dagster}/mlflow"

    @property
    def output(self) -> str:
        """All output of the launcher and its servers."""
        return self._log.read_text(errors="replace")

    def await_ready(self) -> None:
        """Wait until the launcher reports that the UI is ready."""

        def ready() -> bool:
            assert self.process.poll() is None, self.output
            return "Ctrl-C stops it." in self.output

        await_condition(ready, _START_SECONDS, "the UI is there")

    def children(self) -> dict[int, str]:
        """The command lines of its living direct and indirect child processes, by process id."""
        found = processes_of(self.data)
        found.pop(self.process.pid, None)
        return found

    def child(self, words: str) -> int | None:
        """The process id of the child whose command line contains these words."""
        return next((number for number, command in self.children().items() if words in command), None)

    def stop(self, number: signal.Signals) -> int:
        """Send the signal and return the exit status."""
        self.process.send_signal(number)
        return self.process.wait(_STOP_SECONDS)
