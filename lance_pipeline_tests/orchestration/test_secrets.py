"""Secrets of every kind, put where users put them, and searched for in everything written and shown."""

import json
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, quote_plus

import dagster as dg
import pytest

from lance_pipeline_tests.browser.launcher import await_condition, free_port
from lance_pipeline_tests.conftest import Shell, new_shell
from lance_pipeline_tests.mlflow_server import MlflowServer
from lance_pipeline_tests.orchestration.test_archive_source import packed
from lance_pipeline_tests.processes import processes_of
from lance_pipeline_tests.small_project import write_small_project
from lance_pipeline_tests.sources.archive_server import serving

SECRETS = {
    "tracking": "tr@cking pa55w0rd",
    "ui": "ui-pa55w0rd",
    "archive": "archive-pa55w0rd",
    "path": "path-t0ken-of-archive",
    "signature": "s1gnature+of/archive=",
    "redirect": "s1gnature-of-redirect",
    "lost": "s1gnature-of-lost-redirect",
    "access": "AKIAPLANTEDKEY",
    "secret": "aws/s3cret+key",
    "endpoint": "endp0int-pa55w0rd",
    "proxy": "pr0xy-pa55w0rd",
    "database": "d@tabase-pa55w0rd",
}
DEFS = """\
type: lance_pipeline.ImageClassifier
attributes:
  source: {%s}
  image_size: 32
  recipe: {epochs: 1, batch_size: 8, weights: none}
"""
# A definition that reads secrets from the environment through Dagster's templates.
ARCHIVE = 'archive: {url: "{{ env.%s }}/{{ env.PATH_TOKEN }}/x.tar?X-Amz-Signature={{ env.ARCHIVE_SIGNATURE }}&part=1"}'


@dataclass
class Watched:
    """The shell of a project, the output of all its commands, and the command lines of their processes."""

    shell: Shell
    server: MlflowServer
    output: str = ""
    command_lines: set[str] = field(default_factory=set)

    def run(self, *command: str, **variables: str) -> int:
        """Run a command and return its status."""
        process = new_shell(self.shell.folder, self.shell.data, {**self.shell.variables, **variables}).start(*command)
        done = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(done,))
        watcher.start()
        try:
            output, _ = process.communicate(timeout=300)
        finally:
            done.set()
            watcher.join()
            process.kill()
        self.output += output
        return process.returncode

    def materialize(self, *keys: str, **variables: str) -> int:
        selection = " or ".join(f'key:"{key}"' for key in keys)
        command = ("dagster", "asset", "materialize", "-m", "small.definitions", "--select", selection)
        return self.run(*command, **variables)

    def _watch(self, done: threading.Event) -> None:
        while not done.wait(0.1):
            self.command_lines |= set(processes_of(self.shell.data).values())

    def serve(self) -> None:
        """Start and stop the web interface."""
        port = free_port()
        log = self.shell.folder / "ui.log"
        words = ["lance_pipeline", "ui", "--port", str(port)]
        with log.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", *words, "--workspace", str(self.shell.folder / "workspace.yaml")],
                cwd=self.shell.folder,
                env=self.shell.environment,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        try:
            await_condition(lambda: "Ctrl-C stops" in log.read_text(), 200, "the interface is there")
            self.command_lines |= set(processes_of(self.shell.data).values())
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
            self.output += log.read_text()


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """A project that has run every asset successfully, and some with errors that quote addresses."""
    root = tmp_path_factory.mktemp("project")
    write_small_project(root)
    data = root / "data"
    with ExitStack() as stack:
        archive, behind, lost = (stack.enter_context(serving(packed(root / "images" / "flowers"))) for _ in range(3))
        for server, location in (
            (archive, f"{behind.url}&X-Amz-Security-Token={SECRETS['redirect']}"),
            (lost, f"http://127.0.0.1:{free_port()}/x.tar?X-Goog-Signature={SECRETS['lost']}"),
        ):
            server.statuses, server.headers = [302] * 100, {"Location": location}
        sources = {
            "flowers": ARCHIVE % "ARCHIVE",
            "lost": ARCHIVE % "LOST",
            "proxied": ARCHIVE % "PROXIED",
            "remote": "folder: s3://bucket/images",
        }
        for name, source in sources.items():
            defs = root / "small" / "defs" / name / "defs.yaml"
            defs.parent.mkdir(exist_ok=True)
            defs.write_text(f"{DEFS % source}\n  retries: {{times: 1, delay: 0.1}}\n")
        mlflow = MlflowServer(root / "mlflow")
        mlflow.start()
        stack.callback(mlflow.stop)
        watched = Watched(new_shell(root, data, variables(root, mlflow, archive.url, lost.url)), mlflow)
        for path in (data, data / "dagster"):
            path.chmod(0o755)
        before = os.umask(0o022)
        try:
            yield ran(watched)
        finally:
            os.umask(before)


def variables(root: Path, mlflow: MlflowServer, archive: str, lost: str) -> dict[str, str]:
    """The environment variables that contain the secrets."""

    def with_user(url: str, password: str) -> str:
        return url.split("/bitstreams", maxsplit=1)[0].replace("://", f"://me:{password}@")

    return {
        "PYTHONPATH": os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "MLFLOW_TRACKING_URI": with_user(mlflow.uri, SECRETS["tracking"]),
        "LANCE_PIPELINE_MLFLOW_UI": with_user(mlflow.uri, SECRETS["ui"]),
        "ARCHIVE": with_user(archive, SECRETS["archive"]),
        "LOST": with_user(lost, SECRETS["archive"]),
        "PROXIED": "http://images.invalid",
        "PATH_TOKEN": SECRETS["path"],
        "ARCHIVE_SIGNATURE": quote(SECRETS["signature"], safe=""),
        "AWS_ACCESS_KEY_ID": SECRETS["access"],
        "AWS_SECRET_ACCESS_KEY": SECRETS["secret"],
        "AWS_ENDPOINT_URL": f"http://me:{SECRETS['endpoint']}@127.0.0.1:9",
        "HTTP_PROXY": f"http://me:{SECRETS['proxy']}@127.0.0.1:9",
        "NO_PROXY": "127.0.0.1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


def ran(watched: Watched) -> Watched:
    """A project in which every command that a user may run has run."""
    assert (
        watched.run("dagster", "asset", "materialize", "-m", "small.definitions", "--select", "group:flowers") == 0
    ), watched.output
    assert watched.run("lance_pipeline", "summary", "flowers") == 0, watched.output
    database = f"postgresql://me:{SECRETS['database']}@127.0.0.1:9/mlflow"
    failing = [f"{name}/raw_images" for name in ("lost", "proxied", "remote")]
    assert watched.materialize(*failing, "flowers/resnet34", MLFLOW_TRACKING_URI=database) != 0
    assert watched.run("lance_pipeline", "summary", "flowers", MLFLOW_TRACKING_URI=database) != 0
    watched.serve()
    return watched


def forms(secret: str) -> set[str]:
    return {secret, quote(secret), quote(secret, safe=""), quote_plus(secret), json.dumps(secret)[1:-1]}


def leaks(text: str) -> list[str]:
    return [name for name, secret in SECRETS.items() if any(form in text for form in forms(secret))]


def texts(path: Path) -> Iterator[str]:
    """All content of a file, decompressed; for a database each value."""
    data = path.read_bytes()
    yield data.decode(errors="replace")
    if data.startswith(b"SQLite format 3"):
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            for table in tables:
                rows = connection.execute(f'SELECT * FROM "{table}"')
                for value in (value for row in rows for value in row if isinstance(value, bytes)):
                    with suppress(zlib.error):
                        yield zlib.decompress(value).decode(errors="replace")


def test_the_errors_name_what_failed(watched: Watched):
    """Otherwise the search for secrets would prove nothing."""
    for words in (
        "cannot download http://127.0.0.1",
        "cannot download http://images.invalid",
        "X-Goog-Signature=***",
        "MLflow at postgresql://127.0.0.1:9/mlflow cannot be used",
        "s3://bucket/images",
    ):
        assert words in watched.output
    # Read from the event log: the last lines of a step may not reach a busy terminal.
    with watched.shell.instance() as instance:
        [failed] = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE]))
        failures = instance.all_logs(failed.run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
    assert len(failures) == 4


def test_nothing_printed_has_a_secret(watched: Watched):
    assert leaks(watched.output) == []


def test_no_process_has_one_in_its_command_line(watched: Watched):
    assert any("forkserver" in line or "spawn" in line for line in watched.command_lines)
    assert leaks("\n".join(watched.command_lines)) == []


def test_no_file_has_one(watched: Watched):
    root = watched.shell.folder
    found = {
        str(path.relative_to(root)): names
        for path in root.rglob("*")
        if path.is_file()
        and not path.is_symlink()
        and (names := sorted({name for text in texts(path) for name in leaks(text)}))
    }
    assert found == {}
    # All three databases were searched, value by value.
    assert {"runs.db", "index.db", "mlflow.db"} <= {path.name for path in root.rglob("*.db")}


def test_the_runs_are_in_mlflow_with_its_links(watched: Watched):
    with watched.shell.instance() as instance:
        event = instance.get_latest_materialization_event(dg.AssetKey(["flowers", "resnet34"]))
    assert event is not None
    assert event.asset_materialization is not None
    link = str(event.asset_materialization.metadata["mlflow_run"].value)
    assert link.startswith(f"{watched.server.uri}/#/experiments/")


def test_nobody_else_can_read_the_data(watched: Watched):
    data = watched.shell.data
    open_to_others = {
        str(path.relative_to(data)): oct(stat.S_IMODE(path.stat().st_mode))
        for path in (data, *data.rglob("*"))
        if not path.is_symlink() and path.stat().st_mode & 0o077
    }
    assert open_to_others == {}
