"""Requests that try to misuse the UI, and their effects, for the tests of the guard."""

import json
import socket
import urllib.request
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from lance_pipeline_tests.browser.launcher import HOST

START_SCHEDULE = (
    'mutation { startSchedule(scheduleSelector: {repositoryLocationName: "small", repositoryName: "__repository__", '
    'scheduleName: "flowers_retrain_schedule"}) { __typename } }'
)
_STATE = (
    '{ scheduleOrError(scheduleSelector: {repositoryLocationName: "small", repositoryName: "__repository__", '
    'scheduleName: "flowers_retrain_schedule"}) { ... on Schedule { scheduleState { status } } } '
    "assetsOrError { ... on AssetConnection { nodes { key { path } } } } runsOrError { ... on Runs { count } } }"
)
BY_ADDRESS = f"/graphql?query={quote(START_SCHEDULE)}"
IN_BODY = json.dumps({"query": START_SCHEDULE})
REPORT = "/report_asset_materialization/planted"
EXPERIMENT = "/mlflow/ajax-api/2.0/mlflow/experiments/create"
EXPERIMENT_IN_BODY = json.dumps({"name": "planted"})


@dataclass(frozen=True)
class State:
    """The state that an attack would change."""

    schedule: str
    assets: tuple[str, ...]
    runs: int
    experiments: tuple[str, ...]


def state(address: str) -> State:
    """The current state, requested as a program does."""
    data = ask(address, _STATE)
    found = json.loads(_opened(f"{address}/mlflow/ajax-api/2.0/mlflow/experiments/search?max_results=100"))
    return State(
        schedule=data["scheduleOrError"]["scheduleState"]["status"],
        assets=tuple(sorted("/".join(node["key"]["path"]) for node in data["assetsOrError"]["nodes"])),
        runs=data["runsOrError"]["count"],
        experiments=tuple(sorted(one["name"] for one in found["experiments"])),
    )


def ask(address: str, query: str, variables: dict[str, Any] | None = None) -> dict[str, Any]:
    """The response to a GraphQL query, requested as a program does."""
    body = json.dumps({"query": query, "variables": variables or {}}).encode()
    return json.loads(_opened(f"{address}/graphql", body))["data"]


def _opened(url: str, body: bytes | None = None) -> str:
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"} if body else {})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.read().decode()


def answer(port: int, request: str | bytes) -> tuple[int, str]:
    """The status and the text of the response to these bytes; 0 if the connection is closed without one."""
    text = request if isinstance(request, bytes) else request.replace("\n", "\r\n").encode("latin-1")
    with socket.create_connection((HOST, port), timeout=30) as connection:
        connection.sendall(text)
        received = b""
        while part := connection.recv(65536):
            received += part
    shown = received.decode("latin-1")
    return int(shown.split(" ", 2)[1]) if shown.startswith("HTTP/") else 0, shown
