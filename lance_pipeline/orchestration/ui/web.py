"""The process that serves the pages: ``python -m lance_pipeline.orchestration.ui.web``.

Dagster's and MLflow's web servers are applications in this one process, behind the guard, on the single socket that
the launcher listens on. Neither has an address of its own that would bypass the guard.
"""

import argparse
import os
import signal
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import dagster as dg
import uvicorn
import yaml
from dagster._cli.proxy_server_manager import ProxyServerManager
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import WorkspaceFileTarget
from dagster._utils.log import configure_loggers
from dagster_webserver.app import create_app_from_workspace_process_context
from starlette.applications import Starlette
from starlette.responses import RedirectResponse
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp

from lance_pipeline.errors import ExplainedError
from lance_pipeline.orchestration.paths import data_root
from lance_pipeline.orchestration.resources import default_resources
from lance_pipeline.orchestration.tracking.mlflow_tracking import MlflowTracking
from lance_pipeline.orchestration.ui.address import MLFLOW_PATH
from lance_pipeline.orchestration.ui.guard import REPORTS_PATH, Guard
from lance_pipeline.orchestration.ui.reports import reports_routes
from lance_pipeline.storage.whole_files import write_whole

_CODE_LOG_LEVEL = "warning"
# Pages keep WebSockets open for as long as they are shown.
_STOP_SECONDS = 3


def main() -> int:
    """Serve until SIGTERM; returns the exit status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--socket", type=int, required=True, help="the descriptor of the listening socket")
    parser.add_argument("--workspace", required=True, help="which code locations to load")
    parser.add_argument("--services", type=Path, required=True, help="written: a workspace of the code servers started")
    parser.add_argument("--host", action="append", default=[], help="a value of the header Host that is answered")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, _exit)
    configure_loggers(formatter="colored", log_level="INFO")
    try:
        with ThreadPoolExecutor(1) as beside, dg.DagsterInstance.get() as instance:
            # In parallel: importing MLflow and starting the code servers both take seconds.
            resources = default_resources()
            mlflow = beside.submit(_mlflow_routes, resources["mlflow"])
            with _dagster(instance, arguments.workspace, arguments.services) as dagster:
                reports = Mount(REPORTS_PATH, routes=reports_routes(resources["lance_store"].reports_root))
                pages = Starlette(routes=[reports, *mlflow.result(), Mount("/", dagster)])
                _serve(Guard(pages, frozenset(arguments.host)), arguments.socket)
    except ExplainedError as error:
        print(f"lance-pipeline: {error}", file=sys.stderr)
        return 1
    except SystemExit:
        # Raised on SIGTERM.
        return 0
    return 0


def _serve(app: ASGIApp, descriptor: int) -> None:
    config = uvicorn.Config(
        app,
        # This parser rejects ambiguous requests, such as those with two Host headers.
        http="h11",
        log_level="warning",
        lifespan="off",
        # Do not trust what these headers say about a request's origin.
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=_STOP_SECONDS,
    )
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=descriptor)])


def _exit(_: int, __: FrameType | None) -> None:
    # Exit normally, so that everything that was started is stopped.
    raise SystemExit(0)


@contextmanager
def _dagster(instance: dg.DagsterInstance, workspace: str, services: Path) -> Iterator[ASGIApp]:
    """Dagster's web server on code servers of its own, started as `dagster dev` does."""
    target = WorkspaceFileTarget([workspace])
    with ProxyServerManager(instance, target, code_server_log_level=_CODE_LOG_LEVEL) as servers:
        # Written atomically, because the launcher starts the daemon as soon as the file exists.
        write_whole(services, yaml.safe_dump({"load_from": list(servers.get_code_server_specs())}).encode())
        with WorkspaceProcessContext(
            instance, WorkspaceFileTarget([str(services)]), code_server_log_level=_CODE_LOG_LEVEL
        ) as context:
            yield create_app_from_workspace_process_context(context, live_data_poll_rate=2000)


def _mlflow_routes(tracking: MlflowTracking) -> list[BaseRoute]:
    """Routes to MLflow's own server for the tracking database, or a redirect to the configured tracking server.

    Raises:
        InputError: the server or the database cannot be used.
    """
    tracking.client()
    if tracking.remote:
        return [Route(MLFLOW_PATH + "{path:path}", lambda _: RedirectResponse(tracking.ui))]
    files = data_root() / "mlflow" / "uploads"
    # MLflow's server reads its settings only from the environment.
    os.environ |= {
        "_MLFLOW_SERVER_FILE_STORE": tracking.address.full(),
        "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": files.as_uri(),
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        # These eight processes serve language models; they are slow to start and to stop.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        # That middleware accepts every port of this host; the guard does not.
        "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE": "true",
    }
    from mlflow.server.fastapi_app import app

    return [Route(MLFLOW_PATH, lambda _: RedirectResponse(f"{MLFLOW_PATH}/")), Mount(MLFLOW_PATH, app)]


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Everything is stopped by now; Python's own teardown of modules would take seconds.
    os._exit(status)
