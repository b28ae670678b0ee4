"""A real MLflow server that can be stopped and started again."""

import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

from lance_pipeline_tests.browser.launcher import HOST, await_condition, free_port

_SECONDS = 120


class MlflowServer:
    """An MLflow server that stores runs and artifacts in a folder, so that they survive a stop."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"http://{HOST}:{self._port}"

    def start(self) -> None:
        """Start it, and return once it responds."""
        self.folder.mkdir(parents=True, exist_ok=True)
        store = ["--backend-store-uri", f"sqlite:///{self.folder / 'mlflow.db'}"]
        store += ["--artifacts-destination", str(self.folder / "artifacts")]
        command = ["mlflow", "server", *store, "--workers", "1", "--host", HOST, "--port", str(self._port)]
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *command],
                env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        await_condition(self._answers, _SECONDS, "the MLflow server answers")

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health"):
                return True
        except urllib.error.URLError:
            return False

    def freeze(self) -> None:
        """Make it accept connections without responding."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Make it respond again."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGCONT)

    def stop(self) -> None:
        """Kill it and all its processes."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._process = None
