"""Stores and servers that are stopped in the middle of a run and started again."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from lance_pipeline.errors import ExplainedError
from lance_pipeline.evaluation import prediction
from lance_pipeline.ingest.seen_files import SeenFiles
from lance_pipeline.orchestration import paths
from lance_pipeline.orchestration.runtime import failures
from lance_pipeline.orchestration.runtime.retries import Retry, StepContext
from lance_pipeline.orchestration.tracking.mlflow_tracking import MlflowTracking
from lance_pipeline.orchestration.tracking.tracked_run import TrackedRun
from lance_pipeline.orchestration.tracking.tracked_training import Plan
from lance_pipeline.storage import object_store as stores
from lance_pipeline_tests.image_folders import write_image_folder
from lance_pipeline_tests.mlflow_server import MlflowServer
from lance_pipeline_tests.object_store import ObjectStore, object_store
from lance_pipeline_tests.orchestration.conftest import COUNTS, Graph

DATA = "s3://bucket/data"


class Outages:
    """Stops servers when functions are called for the first time, and starts them once a step has failed for it."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._patch = patch
        self._away: list[Callable[[], None]] = []
        self.count = 0
        real = failures.retry_of

        def retry_of(context: StepContext, error: ExplainedError) -> Retry | None:
            retry = real(context, error)
            while self._away:
                self._away.pop()()
            return retry

        patch.setattr(failures, "retry_of", retry_of)

    def at(self, owner: Any, name: str, stop: Callable[[], None], start: Callable[[], None]) -> None:
        real, first = getattr(owner, name), threading.Lock()

        def interrupted(*arguments: Any, **more: Any) -> Any:
            if first.acquire(blocking=False):
                stop()
                self._away.append(start)
                self.count += 1
            return real(*arguments, **more)

        self._patch.setattr(owner, name, interrupted)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MlflowServer]:
    server = MlflowServer(tmp_path / "server")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ObjectStore]:
    with object_store(tmp_path / "s3") as store:
        yield store


def retried(result: dg.ExecuteInProcessResult) -> list[str]:
    """The steps that were retried, in order; what each retry says names the service and keeps its cause."""
    steps = []
    for event in result.all_events:
        if event.event_type_value == "STEP_UP_FOR_RETRY":
            error = event.step_retry_data.error
            assert error is not None
            assert error.cause is not None
            assert error.cause.stack
            assert error.cause.cls_name == "ServiceError"
            assert "AWS_ENDPOINT_URL" in error.message or "MLflow at http://" in error.message
            steps.append(str(event.step_key).removeprefix("tiny__"))
    return steps


def test_a_run_survives_outages_of_its_stores(
    tmp_path: Path, store: ObjectStore, server: MlflowServer, monkeypatch: pytest.MonkeyPatch
):
    store.use(monkeypatch)
    monkeypatch.setenv("LANCE_PIPELINE_DATA", DATA)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    monkeypatch.setattr(paths, "project_root", lambda: tmp_path)
    # Otherwise the libraries wait for half a minute and more before they report an error.
    monkeypatch.setattr(stores, "_ATTEMPTS", 1)
    monkeypatch.setattr(stores, "_RETRIES", {"client_max_retries": "1", "client_retry_timeout": "1"})
    write_image_folder(tmp_path / "images", COUNTS)
    store.upload(tmp_path / "images", "pets")
    outages = Outages(monkeypatch)
    # Files are read, and their rows are written but not committed.
    outages.at(SeenFiles, "append", store.kill, store.start)
    # The splits are about to be opened, and then the MLflow run.
    outages.at(Plan, "start", store.kill, store.start)
    outages.at(MlflowTracking, "open_training", server.stop, server.start)
    # The images are about to be read, and then the results to be logged.
    outages.at(prediction, "predict", store.kill, store.start)
    outages.at(TrackedRun, "log_evaluation", server.stop, server.start)
    with dg.DagsterInstance.ephemeral(str(tmp_path / "instance")) as instance:
        graph = Graph(instance, Path("unused"), {"source": {"folder": "s3://bucket/pets"}, "retries": {"delay": 0.01}})
        assets = ("raw_images", *(f"lance_{split}" for split in COUNTS), "resnet34", "metrics_val")
        result = graph.materialize(*assets)
    assert outages.count == 5
    assert result.success
    assert retried(result) == ["lance_splits", "resnet34", "resnet34", "metrics_val", "metrics_val"]
