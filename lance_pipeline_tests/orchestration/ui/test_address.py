"""How terminal commands find the UI."""

import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from lance_pipeline.orchestration.tracking.mlflow_tracking import MlflowTracking
from lance_pipeline.orchestration.ui.address import announce, running_ui, to_open

LINK = "/mlflow/#/experiments/1/runs/2"


@pytest.fixture(autouse=True)
def _data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANCE_PIPELINE_DATA", str(tmp_path / "data"))


def test_the_ui_that_was_started_last_is_named():
    assert running_ui() is None
    assert "make ui" in to_open(LINK)
    with announce(3001):
        with announce(3002):
            assert to_open(LINK) == f"http://127.0.0.1:3002{LINK}"
        assert to_open(LINK) == f"http://127.0.0.1:3001{LINK}"
    assert running_ui() is None


def _announce(ready) -> None:
    with announce(3003):
        ready.set()
        signal.pause()


def test_a_ui_that_was_killed_is_not_named():
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_announce, args=(ready,))
    process.start()
    assert ready.wait(60)
    assert running_ui() == "http://127.0.0.1:3003"
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    assert running_ui() is None


def test_another_data_folder_has_another_ui(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    with announce(3001):
        monkeypatch.setenv("LANCE_PIPELINE_DATA", str(tmp_path / "other"))
        assert running_ui() is None


def test_an_address_of_the_users_own_stays(monkeypatch: pytest.MonkeyPatch):
    assert MlflowTracking().url("1", "2").startswith("/mlflow/#/experiments/1/runs/2")
    for tracking in (
        MlflowTracking(ui_url="https://ui.example/mlflow"),
        MlflowTracking(tracking_uri="http://ui.example"),
    ):
        url = tracking.url("1", "2")
        assert url.startswith(("https://ui.example/mlflow/#/", "http://ui.example/#/"))
        with announce(3001):
            assert to_open(url) == url
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server.example:5000/")
    assert MlflowTracking().url("1", "2").startswith("http://server.example:5000/#/experiments/1/runs/2")
