"""The Dagster UI and the MLflow UI together, on loopback."""

import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path

from lance_pipeline.errors import InputError
from lance_pipeline.orchestration.databases import require_sound_databases
from lance_pipeline.orchestration.paths import data_root, make_folder, project_root
from lance_pipeline.orchestration.resources import MLFLOW_UI_VARIABLE, default_resources

HOST = "127.0.0.1"
_START_SECONDS = 120
_STOP_SECONDS = 15
_LOOK_SECONDS = 0.2
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Both servers are started in ways that their own projects warn of; nobody here can act on that.
_NOISE = ("Function `dev_command`", "starlette.middleware.wsgi")


def serve(port: int, mlflow_port: int, workspace: str | None = None) -> int:
    """Serve both until Ctrl-C, SIGTERM, or the end of one of them; returns the exit status.

    Raises:
        InputError: a port is taken, a database is damaged, or a server does not come up or ends by itself.
    """
    if port == mlflow_port:
        raise InputError(f"both UIs were given port {port}; choose two: make ui PORT=3000 MLFLOW_PORT=5000")
    for number in (port, mlflow_port):
        _require_free(number)
    require_sound_databases()
    stop = _stop_on_signals()
    tracking = default_resources()["mlflow"]
    tracking.client()
    # A tracking server of the user's has its own UI.
    addresses = {
        "Dagster": f"http://{HOST}:{port}",
        "MLflow": tracking.uri if tracking.remote else f"http://{HOST}:{mlflow_port}",
    }
    home = os.environ.setdefault("DAGSTER_HOME", str(data_root() / "dagster"))
    _give_instance_its_settings(make_folder(Path(home)))
    commands = {"Dagster": ["dagster", "dev", "-w", workspace or str(project_root() / "workspace.yaml"), *_on(port)]}
    if not tracking.remote:
        store = ["--backend-store-uri", tracking.uri]
        commands["MLflow"] = ["mlflow", "server", *store, "--workers", "1", *_on(mlflow_port)]
    return _run(commands, addresses, _environment(addresses["MLflow"]), stop)


def _on(port: int) -> list[str]:
    return ["--host", HOST, "--port", str(port)]


def _run(
    commands: Mapping[str, list[str]],
    addresses: Mapping[str, str],
    environment: dict[str, str],
    stop: Callable[[], bool],
) -> int:
    """Run the servers by name until one is asked to stop; returns the exit status."""
    servers: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name, words in commands.items():
            command = [sys.executable, "-m", *words]
            # A session of its own, so that Ctrl-C reaches it once, by us.
            servers[name] = subprocess.Popen(command, env=environment, start_new_session=True)  # noqa: S603
        for name, page in {"Dagster": "server_info", "MLflow": "health"}.items():
            if name in servers:
                _await(f"{addresses[name]}/{page}", servers, stop)
        if not stop():
            lines = [f"  {name:<8} {url}" for name, url in addresses.items()]
            print("\n" + "\n".join(lines) + "\n  Ctrl-C stops both.\n", flush=True)
        while not stop():
            _require_running(servers)
            time.sleep(_LOOK_SECONDS)
        return 0
    finally:
        _stop(servers.values())


def _stop_on_signals() -> Callable[[], bool]:
    """Whether Ctrl-C or the like came; nothing is interrupted, so no server is started and then forgotten."""
    came: list[int] = []
    for number in _SIGNALS:
        # What nohup ignores stays ignored. SIGINT does not: a shell ignores it for what it starts with `&`.
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda number, _: came.append(number))
    return lambda: bool(came)


def _environment(mlflow_url: str) -> dict[str, str]:
    warnings = [os.environ.get("PYTHONWARNINGS", ""), *(f"ignore:{text}" for text in _NOISE)]
    return (
        {"MLFLOW_DISABLE_TELEMETRY": "true"}
        | os.environ
        | {
            MLFLOW_UI_VARIABLE: mlflow_url,
            "PYTHONWARNINGS": ",".join(filter(None, warnings)),
            # Its eight processes serve language models; they are slow to start and to stop.
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
    )


def _require_free(port: int) -> None:
    if not 0 < port < 2**16:
        raise InputError(f"{port} is not a port; expected a number from 1 to 65535")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise InputError(
                f"port {port} on {HOST} cannot be used: {error.strerror}. Stop what listens there, or choose others: "
                "make ui PORT=3001 MLFLOW_PORT=5001"
            ) from error


def _give_instance_its_settings(home: Path) -> None:
    """Without the project's dagster.yaml the instance would have other settings than `make` gives it."""
    settings, ours = home / "dagster.yaml", project_root() / "dagster.yaml"
    # A link whose target is gone is left by a checkout that was moved.
    if not settings.exists() and ours.is_file():
        settings.unlink(missing_ok=True)
        shutil.copyfile(ours, settings)


def _await(url: str, servers: Mapping[str, subprocess.Popen[bytes]], stop: Callable[[], bool]) -> None:
    # Past any proxy of the environment, which could not reach this machine's loopback.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + _START_SECONDS
    while not stop():
        _require_running(servers)
        with suppress(OSError, http.client.HTTPException), opener.open(url, timeout=5):
            return
        if time.monotonic() > deadline:
            raise InputError(f"{url} did not come up in {_START_SECONDS} seconds; the lines above say why.")
        time.sleep(_LOOK_SECONDS)


def _require_running(servers: Mapping[str, subprocess.Popen[bytes]]) -> None:
    for name, server in servers.items():
        if server.poll() is not None:
            raise InputError(f"the {name} server ended with status {server.returncode}; the lines above say why.")


def _stop(servers: Collection[subprocess.Popen[bytes]]) -> None:
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    for server in servers:
        if server.poll() is None:
            server.terminate()
    deadline = time.monotonic() + _STOP_SECONDS
    for server in servers:
        with suppress(subprocess.TimeoutExpired):
            server.wait(max(0.0, deadline - time.monotonic()))
        # Also what is left of its children.
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
