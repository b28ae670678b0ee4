"""``python -m lance_pipeline ui`` as a process of its own, as `make ui` starts it."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from lance_pipeline_tests.processes import processes_of

HOST = "127.0.0.1"
_START_SECONDS = 240
_STOP_SECONDS = 120


def await_condition(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait until the condition holds, or fail with what was waited for."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} seconds: {what}")
        time.sleep(0.1)


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind((HOST, 0))
        return [one.getsockname()[1] for one in sockets]


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
    """The launcher, in a folder of its own; leaving the context stops it.

    Args:
        folder: where it runs; its output goes to a file there, so that no full pipe can hold it up.
        data: the data folder.
        workspace: the ``workspace.yaml`` to serve; the project's own when unset.
        ports: of the Dagster UI and of the MLflow UI; free ones when unset.
    """

    def __init__(
        self, folder: Path, data: Path, workspace: Path | None = None, ports: tuple[int, int] | None = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.data = data
        self.port, self.mlflow_port = ports or free_ports(2)
        command = ["lance_pipeline", "ui", "--port", str(self.port), "--mlflow-port", str(self.mlflow_port)]
        if workspace is not None:
            command += ["--workspace", str(workspace)]
        self._log = folder / "ui.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=folder,
                env=os.environ | {"LANCE_PIPELINE_DATA": str(data)},
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
        return f"http://{HOST}:{self.mlflow_port}"

    @property
    def output(self) -> str:
        """All that it and its servers have printed."""
        return self._log.read_text(errors="replace")

    def await_ready(self) -> None:
        """Wait until it says that both UIs are there."""

        def ready() -> bool:
            assert self.process.poll() is None, self.output
            return "Ctrl-C stops both." in self.output

        await_condition(ready, _START_SECONDS, "the UIs are there")

    def children(self) -> dict[int, str]:
        """The command lines of the living processes that it started, directly or not, by process id."""
        found = processes_of(self.data)
        found.pop(self.process.pid, None)
        return found

    def child(self, words: str) -> int | None:
        """The process id of a child that it started with these words."""
        return next((number for number, command in self.children().items() if words in command), None)

    def stop(self, number: signal.Signals) -> int:
        """Send the signal and return the exit status."""
        self.process.send_signal(number)
        return self.process.wait(_STOP_SECONDS)
