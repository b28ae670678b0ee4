"""Starts and stops the servers of ``make ui``."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from lance_pipeline.errors import InputError
from lance_pipeline.orchestration.paths import project_root
from lance_pipeline.orchestration.runtime.databases import require_sound_databases
from lance_pipeline.orchestration.runtime.instance import prepare_instance
from lance_pipeline.orchestration.ui.address import HOST, MLFLOW_PATH, announce
from lance_pipeline.orchestration.ui.guard import HOSTS_VARIABLE, REPORTS_PATH, allowed_hosts

_START_SECONDS = 120
_STOP_SECONDS = 15
_LOOK_SECONDS = 0.2
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def serve(port: int, workspace: str | None = None, hosts: Sequence[str] = ()) -> int:
    """Serve Dagster, MLflow and reports until Ctrl-C, SIGTERM, or the end of a server; returns the exit status.

    Args:
        port: a port of loopback.
        workspace: a ``workspace.yaml``; None means the project's.
        hosts: accepted values of the header ``Host`` besides loopback's names, such as those of an SSH tunnel.

    Raises:
        InputError: the port is in use, a database is damaged, or a server does not start or ends by itself.
    """
    require_sound_databases()
    stop = _stop_on_signals()
    given = os.environ.get(HOSTS_VARIABLE, "").split(",")
    answered = allowed_hosts(port, [*hosts, *(name.strip() for name in given if name.strip())])
    with _listening(port) as listening, tempfile.TemporaryDirectory(prefix="lance-pipeline-ui-") as private:
        prepare_instance()
        services = Path(private) / "workspace.yaml"
        servers = _Servers(_environment())
        try:
            servers.start(
                "web server",
                ["-m", "lance_pipeline.orchestration.ui.web", "--socket", str(listening.fileno())]
                + ["--workspace", workspace or str(project_root() / "workspace.yaml"), "--services", str(services)]
                + [f"--host={name}" for name in sorted(answered)],
                listening.fileno(),
            )
            servers.wait(services.exists, "The Dagster code servers", stop)
            if not stop():
                daemon = ["-m", "dagster._daemon", "run", "--workspace", str(services)]
                # The daemon logs little, so that the address stays the last line and is easy to find.
                quiet = ["--log-level", "warning", "--code-server-log-level", "warning"]
                servers.start("Dagster daemon", [*daemon, *quiet])
            address = f"http://{HOST}:{port}"
            servers.wait(lambda: _answers(f"{address}/server_info"), address, stop)
            if not stop():
                print(
                    f"\n  {address}\n  Dagster; MLflow is at {MLFLOW_PATH}/, reports of checks at {REPORTS_PATH}/. "
                    "Ctrl-C stops it.\n",
                    flush=True,
                )
            with announce(port):
                while not stop():
                    servers.require_running()
                    time.sleep(_LOOK_SECONDS)
            return 0
        finally:
            servers.stop()


class _Servers:
    """The running servers by name, each in its own session, so that Ctrl-C reaches it only once, through us."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, words: Sequence[str], *descriptors: int) -> None:
        """Start a Python process that inherits these descriptors."""
        self._running[name] = subprocess.Popen(  # noqa: S603
            [sys.executable, *words],
            env=self._environment,
            pass_fds=descriptors,
            start_new_session=True,
            # Write access to a code server's socket means control over the server.
            umask=0o077,
        )

    def wait(self, condition: Callable[[], bool], what: str, stop: Callable[[], bool]) -> None:
        """Wait until the condition holds or a stop is requested.

        Raises:
            InputError: a server ends first, or the wait takes too long.
        """
        deadline = time.monotonic() + _START_SECONDS
        while not stop() and not condition():
            self.require_running()
            if time.monotonic() > deadline:
                raise InputError(f"{what} did not come up in {_START_SECONDS} seconds; the lines above say why.")
            time.sleep(_LOOK_SECONDS)

    def require_running(self) -> None:
        """Raise an InputError that names the server, if one has ended."""
        for name, server in self._running.items():
            if server.poll() is not None:
                raise InputError(f"the {name} ended with status {server.returncode}; the lines above say why.")

    def stop(self) -> None:
        """End all servers, including leftover children."""
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        _stop(self._running.values())


def _stop(servers: Collection[subprocess.Popen[bytes]]) -> None:
    for server in servers:
        if server.poll() is None:
            server.terminate()
    deadline = time.monotonic() + _STOP_SECONDS
    for server in servers:
        with suppress(subprocess.TimeoutExpired):
            server.wait(max(0.0, deadline - time.monotonic()))
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)


def _stop_on_signals() -> Callable[[], bool]:
    """A function that returns whether Ctrl-C or the like came; it interrupts nothing, so no server is orphaned."""
    came: list[int] = []
    for number in _SIGNALS:
        # Keep ignoring what nohup ignores. Not SIGINT: a shell ignores it for commands started with `&`.
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda number, _: came.append(number))
    return lambda: bool(came)


def _environment() -> Mapping[str, str]:
    # As `dagster dev` does: errors in definitions are shown without Dagster's own stack.
    return {"MLFLOW_DISABLE_TELEMETRY": "true", "DAGSTER_IS_DEV_CLI": "1"} | os.environ


def _listening(port: int) -> socket.socket:
    if not 0 < port < 2**16:
        raise InputError(f"{port} is not a port; expected a number from 1 to 65535")
    try:
        return socket.create_server((HOST, port))
    except OSError as error:
        raise InputError(
            f"port {port} on {HOST} cannot be used: {os.strerror(error.errno or 0)}. Stop what listens there, or "
            "choose another: make ui PORT=3001"
        ) from error


def _answers(url: str) -> bool:
    # Bypass any proxy from the environment, which could not reach this machine's loopback.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    # The socket accepts connections before a server answers.
    with suppress(OSError, http.client.HTTPException), opener.open(url, timeout=2):
        return True
    return False
