"""Requests that the UI obeys: hostile pages in a real browser, and requests that no browser would send."""

import json
import os
import socket
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest
from playwright.sync_api import Page, expect

from lance_pipeline_tests.browser.attacks import (
    BY_ADDRESS,
    EXPERIMENT,
    EXPERIMENT_IN_BODY,
    IN_BODY,
    REPORT,
    START_SCHEDULE,
    answer,
    ask,
    state,
)
from lance_pipeline_tests.browser.conftest import HOSTILE, PROXY, TUNNEL
from lance_pipeline_tests.browser.launcher import HOST, Launcher

KEY = "dGhlIHNhbXBsZSBub25jZQ=="


@pytest.fixture(scope="module")
def hostile_port() -> Iterator[int]:
    """An attacker's web server, whose pages are empty."""

    class Empty(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><body></body>")

        def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002

    with ThreadingHTTPServer((HOST, 0), Empty) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


ATTACKS = {
    "text by fetch": "url => fetch(url + BY_ADDRESS, {method: 'POST', mode: 'no-cors', body: 'x'})",
    "text that claims JSON": "url => fetch(url + '/graphql', {method: 'POST', mode: 'no-cors', body: IN_BODY, "
    "headers: {'Content-Type': 'text/plain; charset=application/json'}})",
    "JSON by fetch": "url => fetch(url + '/graphql', {method: 'POST', body: IN_BODY, "
    "headers: {'Content-Type': 'application/json'}})",
    "no body": "url => fetch(url + BY_ADDRESS, {method: 'POST', mode: 'no-cors'})",
    "GET by fetch": "url => fetch(url + BY_ADDRESS, {mode: 'no-cors'})",
    "beacon": "url => { navigator.sendBeacon(url + BY_ADDRESS, 'x'); "
    "navigator.sendBeacon(url + '/graphql', new Blob([IN_BODY], {type: 'application/json'})) }",
    "image": "url => new Promise(done => { const image = new Image(); image.onload = image.onerror = done; "
    "image.src = url + BY_ADDRESS })",
    "script": "url => new Promise(done => { const one = document.createElement('script'); one.onload = one.onerror = "
    "done; one.src = url + BY_ADDRESS; document.body.append(one) })",
    "report": "url => fetch(url + REPORT, {method: 'POST', mode: 'no-cors'})",
    "report with a body": "url => fetch(url + REPORT, {method: 'POST', mode: 'no-cors', body: '{}'})",
    "MLflow": "url => fetch(url + EXPERIMENT, {method: 'POST', mode: 'no-cors', body: EXPERIMENT_IN_BODY})",
    "MLflow by JSON": "url => fetch(url + EXPERIMENT, {method: 'POST', body: EXPERIMENT_IN_BODY, "
    "headers: {'Content-Type': 'application/json'}})",
    "upload": "url => { const form = new FormData(); form.append('file', new Blob(['x'])); return fetch("
    "url + '/mlflow/ajax-api/2.0/mlflow/upload-artifact?run_uuid=x&path=x', "
    "{method: 'POST', mode: 'no-cors', body: form}) }",
    **{
        f"form as {kind}": "url => { const form = document.createElement('form'); form.method = 'POST'; "
        f"form.enctype = '{kind}'; form.action = url + {where}; form.target = '_blank'; "
        "const field = document.createElement('input'); field.name = '{\"a\": \"'; field.value = '\"}'; "
        "form.append(field); document.body.append(form); form.submit() }"
        for kind, where in (
            ("text/plain", "BY_ADDRESS"),
            ("multipart/form-data", "BY_ADDRESS"),
            ("application/x-www-form-urlencoded", "BY_ADDRESS"),
            ("text/plain", "REPORT"),
        )
    },
    "window": "url => { window.open(url + BY_ADDRESS) }",
    "WebSocket": "url => new Promise(done => { const socket = new WebSocket(url.replace('http', 'ws') + '/graphql', "
    "'graphql-ws'); socket.onopen = () => { socket.send(JSON.stringify({type: 'connection_init'})); "
    "socket.send(JSON.stringify({type: 'start', id: '1', payload: {query: START_SCHEDULE}})); "
    "setTimeout(() => done('open'), 1000) }; socket.onerror = () => done('refused') })",
}
_WORDS = {
    "BY_ADDRESS": BY_ADDRESS,
    "EXPERIMENT_IN_BODY": EXPERIMENT_IN_BODY,
    "EXPERIMENT": EXPERIMENT,
    "IN_BODY": IN_BODY,
    "REPORT": REPORT,
    "START_SCHEDULE": START_SCHEDULE,
}


def _run(page: Page, attack: str, address: str) -> object:
    words = "".join(f"const {name} = {json.dumps(value)};" for name, value in _WORDS.items())
    # A page gets an error when it may not read the response, whether or not the request was obeyed.
    code = f"async url => {{ {words} try {{ return await ({attack})(url) }} catch (error) {{ return 'refused' }} }}"
    return page.evaluate(code, address)


@pytest.mark.parametrize("site", ["another site", "another port"])
def test_hostile_pages_command_nothing(page: Page, ui: Launcher, hostile_port: int, site: str):
    before = state(ui.dagster)
    page.goto(f"http://{HOSTILE if site == 'another site' else HOST}:{hostile_port}/")
    for name, attack in ATTACKS.items():
        found = _run(page, attack, ui.dagster)
        assert found != "open", name
    page.wait_for_timeout(1000)
    assert state(ui.dagster) == before


def test_the_same_requests_work_from_the_own_page(page: Page, ui: Launcher):
    page.goto(ui.dagster)
    assert state(ui.dagster).schedule == "STOPPED"
    for name in ("JSON by fetch", "MLflow by JSON"):
        assert _run(page, ATTACKS[name], ui.dagster) != "refused"
    assert _run(page, ATTACKS["WebSocket"], ui.dagster) == "open"
    after = state(ui.dagster)
    assert after.schedule == "RUNNING"
    assert "planted" in after.experiments


def test_subscriptions_answer(page: Page, ui: Launcher):
    page.goto(ui.dagster)
    query = 'subscription { pipelineRunLogs(runId: "none") { ... on PipelineRunLogsSubscriptionFailure { message } } }'
    found = page.evaluate(
        "([url, query]) => new Promise(done => { const socket = new WebSocket(url, 'graphql-ws'); "
        "socket.onopen = () => { socket.send(JSON.stringify({type: 'connection_init'})); "
        "socket.send(JSON.stringify({type: 'start', id: '1', payload: {query}})) }; "
        "socket.onmessage = event => { const one = JSON.parse(event.data); if (one.id) done(one) } })",
        [f"ws://{HOST}:{ui.port}/graphql", query],
    )
    assert "none" in found["payload"]["data"]["pipelineRunLogs"]["message"]


def test_own_pages_keep_to_their_policy(page: Page, ui: Launcher):
    told: list[str] = []
    page.on("console", lambda message: told.append(message.text))
    for path in ("/locations/small/asset-groups/flowers/lineage", "/mlflow/#/experiments/0", "/mlflow/#/models"):
        page.goto(ui.dagster + path)
        expect(page.get_by_role("link").first).to_be_visible()
        # The pages poll forever, so there is no idle state to wait for.
        page.wait_for_timeout(1500)
    assert [text for text in told if "Content Security Policy" in text] == []


@pytest.mark.parametrize("name", [TUNNEL, TUNNEL.lower(), PROXY])
def test_allowed_names_are_answered(ui: Launcher, name: str):
    before = state(ui.dagster)
    for origin in (f"Origin: http://{name}", f"Origin: https://{name}"):
        request = _request("POST", "/graphql", JSON, origin, body='{"query": "{ version }"}', host=f"Host: {name}")
        assert answer(ui.port, request)[0] == 200
    request = _request("POST", "/graphql", JSON, f"Origin: http://{name}0", body=IN_BODY, host=f"Host: {name}")
    assert answer(ui.port, request)[0] == 403
    assert state(ui.dagster) == before


def test_a_launch_that_redirects_a_resource_is_refused(ui: Launcher, tmp_path: Path):
    before = state(ui.dagster)
    # Dagster ignores the configuration of a resource that no selected asset uses.
    for asset, resource, field in (
        ("resnet34", "mlflow", "tracking_uri"),
        ("raw_images", "lance_store", "datasets"),
        ("raw_images", "io_manager", "folder"),
    ):
        launch = {
            "selector": {
                "repositoryLocationName": "small",
                "repositoryName": "__repository__",
                "pipelineName": "__ASSET_JOB",
                "assetSelection": [{"path": ["flowers", asset]}],
            },
            "mode": "default",
            "runConfigData": {"resources": {resource: {"config": {field: str(tmp_path)}}}},
        }
        query = (
            "mutation($launch: ExecutionParams!) { launchPipelineExecution(executionParams: $launch) "
            "{ __typename ... on RunConfigValidationInvalid { errors { message } } } }"
        )
        found = ask(ui.dagster, query, {"launch": launch})["launchPipelineExecution"]
        assert found["__typename"] == "RunConfigValidationInvalid"
        assert field in found["errors"][0]["message"]
    assert state(ui.dagster) == before


def test_reports_are_files_to_read(page: Page, ui: Launcher):
    reports = ui.data / "reports" / "flowers"
    reports.mkdir(parents=True)
    large = os.urandom(2**20) * 100
    (reports / "large.csv").write_bytes(large)
    (reports / "<i>&.html").write_text("<script>document.title = 'planted'</script><p>Shown</p>")
    (reports / "outside").symlink_to(ui.data / "dagster" / "dagster.yaml")
    page.goto(f"{ui.dagster}/reports/")
    assert page.get_by_role("link").all_inner_texts() == ["flowers/<i>&.html", "flowers/large.csv"]
    page.get_by_role("link", name="flowers/<i>&.html").click()
    expect(page.get_by_text("Shown")).to_be_visible()
    assert page.title() != "planted"
    assert page.evaluate("origin") == "null"
    with urllib.request.urlopen(f"{ui.dagster}/reports/flowers/large.csv", timeout=60) as read:
        assert read.read() == large
    for path in ("flowers/outside", "../dagster/dagster.yaml", "%2e%2e/dagster/dagster.yaml", "/etc/passwd", "flowers"):
        request = _request("GET", f"/reports/{path}").replace("{host}", f"{HOST}:{ui.port}")
        assert answer(ui.port, request)[0] in (403, 404), path


def test_uploads_stream_and_their_pages_have_no_origin(ui: Launcher):
    place = f"{ui.mlflow}/api/2.0/mlflow-artifacts/artifacts/planted"
    large = os.urandom(2**20) * 100
    for name, body in (("large.bin", large), ("page.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>")):
        urllib.request.urlopen(urllib.request.Request(f"{place}/{name}", body, method="PUT"), timeout=60).close()
        with urllib.request.urlopen(f"{place}/{name}", timeout=60) as read:
            assert read.read() == body
            assert "sandbox" in read.headers["Content-Security-Policy"]
            assert read.headers["X-Frame-Options"] == "DENY"


def test_nothing_else_listens_where_others_can_ask(ui: Launcher):
    open_to_all = []
    for number in [ui.process.pid, *ui.children()]:
        for connection in psutil.Process(number).net_connections("all"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr != (HOST, ui.port):
                open_to_all.append(connection)
            path = str(connection.laddr) if connection.family == socket.AF_UNIX else ""
            if path and os.path.exists(path) and os.stat(path).st_mode & 0o077:
                open_to_all.append(connection)
    assert open_to_all == []


def test_no_page_can_frame_it(page: Page, ui: Launcher, hostile_port: int):
    page.goto(f"http://{HOSTILE}:{hostile_port}/")
    for path in ("/", "/mlflow/", "/reports/"):
        frame = page.evaluate_handle(
            "url => new Promise(done => { const one = document.createElement('iframe'); one.src = url; "
            "one.onload = () => done(one); document.body.append(one) })",
            ui.dagster + path,
        ).as_element()
        assert frame is not None
        content = frame.content_frame()
        assert content is None or content.url.startswith("chrome-error:"), path


def test_another_name_for_the_same_address_is_refused(page: Page, ui: Launcher):
    found = page.goto(f"http://{HOSTILE}:{ui.port}/")
    assert found is not None
    assert found.status == 403
    assert "--allow-host" in found.text()


def _request(method: str, path: str, *headers: str, body: str = "", host: str = "Host: {host}") -> str:
    lines = [f"{method} {path} HTTP/1.1", *([host] if host else []), *headers]
    if not any(header.startswith("Connection:") for header in headers):
        lines.append("Connection: close")
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\n".join([*lines, "", body])


JSON = "Content-Type: application/json"
SOCKET = ("Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Key: {KEY}", "Sec-WebSocket-Version: 13")
RAW = {
    "GET": _request("GET", BY_ADDRESS),
    "HEAD": _request("HEAD", BY_ADDRESS),
    "GET as JSON": _request("GET", BY_ADDRESS, JSON),
    "GET with a slash": _request("GET", BY_ADDRESS.replace("/graphql", "//graphql/")),
    "GET with a line's end": _request("GET", BY_ADDRESS.replace("/graphql", "/graphql%0A")),
    "GET in disguise": _request("GET", BY_ADDRESS.replace("/graphql", "/%67raphql")),
    "GET by HTTP/1.0": f"GET {BY_ADDRESS} HTTP/1.0\nHost: {{host}}\n\n",
    "GET by HTTP/0.9": f"GET {BY_ADDRESS}\n\n",
    "GET of MLflow's": _request("GET", "/mlflow/graphql?query=x"),
    "no body": _request("POST", BY_ADDRESS),
    "an empty body": _request("POST", BY_ADDRESS, "Content-Length: 0"),
    "text": _request("POST", BY_ADDRESS, "Content-Type: text/plain", body="x"),
    "text that claims JSON": _request("POST", "/graphql", "Content-Type: text/plain; application/json", body=IN_BODY),
    "two types": _request("POST", "/graphql", "Content-Type: text/plain", JSON, body=IN_BODY),
    "two types in one": _request("POST", "/graphql", "Content-Type: text/plain, application/json", body=IN_BODY),
    "GraphQL": _request("POST", "/graphql", "Content-Type: application/graphql", body=START_SCHEDULE),
    "form": _request("POST", BY_ADDRESS, "Content-Type: multipart/form-data; boundary=x", body="--x--"),
    "upper case": _request("POST", BY_ADDRESS, "CONTENT-TYPE: TEXT/PLAIN", body="x"),
    "chunks of text": _request("POST", BY_ADDRESS, "Transfer-Encoding: chunked") + "1\nx\n0\n\n",
    "text and an own origin": _request("POST", BY_ADDRESS, "Origin: http://{host}", body="x"),
    "another method": _request("PUT", "/graphql", body=IN_BODY),
    "an unknown method": _request("WIPE", BY_ADDRESS),
    "preflight": _request(
        "OPTIONS", "/graphql", "Origin: http://hostile.example", "Access-Control-Request-Method: POST"
    ),
    **{
        f"JSON from {origin}": _request("POST", "/graphql", JSON, f"Origin: {origin}", body=IN_BODY)
        for origin in (
            "http://hostile.example",
            "http://127.0.0.1:1",
            "http://127.0.0.1",
            "null",
            "",
            "file://",
            "http://{host}.hostile.example",
            "http://hostile.example#{host}",
            "http://{host}@hostile.example",
            "http://hostile.example/{host}",
            "chrome-extension://{host}",
        )
    },
    "two origins": _request(
        "POST", "/graphql", JSON, "Origin: http://{host}", "Origin: http://hostile.example", body=IN_BODY
    ),
    "a cross-site fetch": _request("POST", "/graphql", JSON, "Sec-Fetch-Site: cross-site", body=IN_BODY),
    "a same-site fetch": _request("POST", "/graphql", JSON, "Sec-Fetch-Site: same-site", body=IN_BODY),
    **{
        f"host {host or 'missing'}": _request("POST", "/graphql", JSON, body=IN_BODY, host=host)
        for host in (
            "",
            "Host:",
            "Host: hostile.example",
            "Host: hostile.example:{port}",
            "Host: 127.0.0.1",
            "Host: 127.0.0.1:1",
            "Host: {host}.hostile.example",
            "Host: {host}@hostile.example",
            "Host: {host}\nHost: hostile.example",
            "Host: hostile.example\nX-Forwarded-Host: {host}",
            "Host: 0.0.0.0:{port}",
            "Host: 127.1:{port}",
        )
    },
    "no host by HTTP/1.0": f"POST /graphql HTTP/1.0\n{JSON}\nContent-Length: {len(IN_BODY)}\n\n{IN_BODY}",
    "absolute form": _request(
        "POST", "http://hostile.example/graphql", JSON, body=IN_BODY, host="Host: hostile.example"
    ),
    "absolute form of the own": _request("POST", "http://{host}/graphql", "Content-Type: text/plain", body=IN_BODY),
    "report": _request("POST", REPORT),
    "report as text": _request("POST", REPORT, "Content-Type: text/plain", body="{}"),
    "observation": _request("POST", "/report_asset_observation/planted"),
    "check": _request("POST", "/report_asset_check/planted?check_name=x&passed=true"),
    "MLflow": _request("POST", EXPERIMENT, "Content-Type: text/plain", body=EXPERIMENT_IN_BODY),
    "MLflow without a type": _request("POST", EXPERIMENT, body=EXPERIMENT_IN_BODY),
    "MLflow around its prefix": _request(
        "POST", EXPERIMENT.replace("/mlflow/", "/mlflow//", 1), "Content-Type: text/plain", body=EXPERIMENT_IN_BODY
    ),
    "upload": _request(
        "POST", "/mlflow/ajax-api/2.0/mlflow/upload-artifact?run_uuid=x&path=y", "Content-Type: text/plain", body="x"
    ),
    "delete": _request("DELETE", "/mlflow/ajax-api/2.0/mlflow-artifacts/artifacts/x"),
    "WebSocket of another page": _request("GET", "/graphql", *SOCKET, "Origin: http://hostile.example"),
    "WebSocket of a file": _request("GET", "/graphql", *SOCKET, "Origin: null"),
    "WebSocket of nobody": _request("GET", "/graphql", *SOCKET),
    "WebSocket of another host": _request(
        "GET", "/graphql", *SOCKET, "Origin: http://{host}", host="Host: hostile.example"
    ),
}


def test_raw_requests_command_nothing(ui: Launcher):
    before = state(ui.dagster)
    for name, request in RAW.items():
        sent = request.replace("{host}", f"{HOST}:{ui.port}").replace("{port}", str(ui.port))
        status, text = answer(ui.port, sent)
        assert 400 <= status < 500, (name, text)
    assert state(ui.dagster) == before
