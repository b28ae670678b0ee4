"""The Dagster UI and the MLflow UI together, on loopback."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import FrameType

from lance_pipeline.errors import InputError
from lance_pipeline.orchestration.paths import data_root, make_folder, project_root
from lance_pipeline.orchestration.resources import MLFLOW_UI_VARIABLE, default_resources

HOST = "127.0.0.1"
_START_SECONDS = 120
_STOP_SECONDS = 15


class _Stop(Exception):  # noqa: N818 - a request, not an error
    """Ctrl-C or SIGTERM."""


def serve(port: int, mlflow_port: int, workspace: str | None = None) -> int:
    """Serve both until Ctrl-C, SIGTERM, or the end of one of them; returns the exit status.

    Raises:
        InputError: a port is taken, or a server does not come up.
    """
    addresses = {"Dagster": f"http://{HOST}:{port}", "MLflow": f"http://{HOST}:{mlflow_port}"}
    for number in (port, mlflow_port):
        _require_free(number)
    tracking = default_resources()["mlflow"]
    tracking.client()
    home = os.environ.setdefault("DAGSTER_HOME", str(data_root() / "dagster"))
    make_folder(data_root() / "dagster")
    _give_instance_its_settings(home)
    environment = os.environ | {MLFLOW_UI_VARIABLE: addresses["MLflow"]}
    workspace = workspace or str(project_root() / "workspace.yaml")
    module = [sys.executable, "-m"]
    commands = (
        [*module, "dagster", "dev", "-w", workspace, *_loopback(port)],
        [*module, "mlflow", "server", "--backend-store-uri", tracking.uri, *_loopback(mlflow_port), "--workers", "1"],
    )
    # Handlers, not the defaults: a shell that starts this with `&` makes children deaf to Ctrl-C.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _request_stop)
    servers: list[subprocess.Popen[bytes]] = []
    try:
        # A session of their own, so that Ctrl-C reaches them once, by us.
        servers.extend(_start(command, environment) for command in commands)
        _await(f"{addresses['Dagster']}/server_info", servers)
        _await(f"{addresses['MLflow']}/health", servers)
        print(
            "\n" + "\n".join(f"  {name:<8} {url}" for name, url in addresses.items()) + "\n  Ctrl-C stops both.\n",
            flush=True,
        )
        while all(server.poll() is None for server in servers):
            time.sleep(0.2)
        return 1
    except _Stop:
        return 0
    finally:
        _stop(servers)


def _start(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, env=environment, start_new_session=True)  # noqa: S603 - our own words


def _loopback(port: int) -> list[str]:
    return ["--host", HOST, "--port", str(port)]


def _request_stop(_signal: int, _frame: FrameType | None) -> None:
    raise _Stop


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise InputError(
                f"port {port} on {HOST} cannot be used: {error.strerror}. Stop what listens there, or choose others: "
                "make ui PORT=3001 MLFLOW_PORT=5001"
            ) from error


def _give_instance_its_settings(home: str) -> None:
    """Without the project's dagster.yaml the instance would have other settings than `make` gives it."""
    settings = os.path.join(home, "dagster.yaml")
    if not os.path.exists(settings) and (project_root() / "dagster.yaml").is_file():
        shutil.copyfile(project_root() / "dagster.yaml", settings)


def _await(url: str, servers: Sequence[subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and all(server.poll() is None for server in servers):
        try:
            with urllib.request.urlopen(url, timeout=5):  # noqa: S310 - loopback
                return
        except OSError:
            time.sleep(0.3)
    raise InputError(f"{url} did not come up; the lines above say why.")


def _stop(servers: Sequence[subprocess.Popen[bytes]]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    for server in servers:
        if server.poll() is None:
            server.terminate()
    for server in servers:
        with suppress(subprocess.TimeoutExpired):
            server.wait(_STOP_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
