"""Which models are removed and which stay, and that a removal can be interrupted anywhere."""

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import lance
import pytest
from dagster._core.test_utils import create_run_for_test
from mlflow import MlflowClient
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from lance_pipeline.errors import InputError
from lance_pipeline.ingest import maintenance
from lance_pipeline.orchestration.cli.reproduction import reproduce
from lance_pipeline.orchestration.records import Metrics, Model
from lance_pipeline.orchestration.retention import models, runs
from lance_pipeline.orchestration.retention.tracking import KEEP_TAG, Tracking
from lance_pipeline.orchestration.tracking.mlflow_tracking import MlflowTracking
from lance_pipeline.training.weights import load_model
from lance_pipeline_tests.orchestration.retention.conftest import Project

Runs = dict[str, str]


def record(project: Project, run_id: str) -> Model:
    path = project.data / "dagster" / "records" / "tiny" / "resnet34" / f"{run_id}.json"
    return Model.model_validate_json(path.read_bytes())


@pytest.fixture(scope="module")
def trained(project: Project) -> Runs:
    """Models with their Dagster runs, each by its special feature."""
    found = {name: project.train() for name in ("plain", "tagged", "registered", "logged", "latest")}
    assert project.materialize("metrics_val", "metrics_test").success
    client = MlflowTracking().client()
    mlflow_run = {name: record(project, run_id).mlflow_run_id for name, run_id in found.items()}
    client.set_tag(mlflow_run["tagged"], KEEP_TAG, "")
    (logged,) = client.search_logged_models(["1"], f"source_run_id = '{mlflow_run['logged']}'")
    client.set_logged_model_tags(logged.model_id, {"champion": "2026"})
    (registered,) = client.search_logged_models(["1"], f"source_run_id = '{mlflow_run['registered']}'")
    client.create_registered_model("tiny")
    place, of_run = registered.artifact_location, mlflow_run["registered"]
    client.create_model_version("tiny", place, run_id=of_run, model_id=registered.model_id)
    return found


@pytest.fixture
def restored(project: Project, trained: Runs, tmp_path: Path) -> Iterator[Callable[[], None]]:
    """A function that restores the data folder; it is also called once at the end."""
    kept = tmp_path / "kept"
    _copy(project.data, kept)

    def restore() -> None:
        client = MlflowTracking().client()
        for store in (client._tracking_client.store, client._get_registry_client().store):
            store.engine.dispose()
        shutil.rmtree(project.data)
        _copy(kept, project.data)

    yield restore
    restore()


def _copy(source: Path, target: Path) -> None:
    def copied(one: str, other: str) -> None:
        # Weights can be linked because nothing writes to them in place.
        (os.link if one.endswith(".safetensors") else shutil.copyfile)(one, other)

    shutil.copytree(source, target, copy_function=copied)


def test_a_plan_says_why_each_model_stays_and_changes_nothing(project: Project, trained: Runs):
    plan = project.retention().plan()
    (model,) = (one for one in plan.removed if one.what == "model")
    assert model.name == trained["plain"]
    # Weights with two hard links.
    assert 85_000_000 < model.bytes < 87_000_000
    why = {one.model: one.why for one in plan.kept}
    assert why.keys() == {trained[name] for name in trained if name != "plain"}
    assert KEEP_TAG in why[trained["tagged"]]
    assert "champion" in why[trained["logged"]]
    assert "tiny version 1" in why[trained["registered"]]
    assert not plan.troubles
    assert project.models() == project.records() == set(trained.values())


def test_by_default_nothing_of_today_goes(project: Project, trained: Runs):
    assert not project.retention(models=20, days=90).plan().removed
    assert not project.retention(models=1, days=1).plan().removed


def test_what_a_removed_model_had_is_gone(project: Project, trained: Runs, restored: Callable[[], None]):
    gone = record(project, trained["plain"])
    outcome = project.retention().apply(lambda line: None)
    assert not outcome.troubles
    assert_removed(project, trained)
    with pytest.raises(InputError, match=gone.mlflow_run_id):
        reproduce(gone.mlflow_run_id)
    assert project.materialize("metrics_test").success


def assert_removed(project: Project, trained: Runs) -> None:
    """The plain model is removed with everything that belongs to it; all others are complete."""
    kept = {run_id for name, run_id in trained.items() if name != "plain"}
    assert project.models() == project.records() == project.pages() == kept
    assert not list((project.data / "reports").rglob(f"{trained['plain']}.html"))
    assert not list((project.data / "dagster" / "records").rglob("*.removing"))
    assert trained["plain"] not in project.events()
    assert not project.instance.has_run(trained["plain"])
    mlflow_runs = {record(project, run_id).mlflow_run_id for run_id in kept}
    with closing(sqlite3.connect(project.data / "mlflow" / "mlflow.db")) as database:
        runs = {row[0] for row in database.execute("SELECT run_uuid FROM runs")}
        parents = dict(database.execute("SELECT run_uuid, value FROM tags WHERE key = 'mlflow.parentRunId'"))
        # Evaluations are children of their model's run.
        assert runs - parents.keys() == mlflow_runs
        assert set(parents.values()) <= mlflow_runs
        (count,) = database.execute("SELECT count(*) FROM logged_models").fetchone()
        assert count == len(kept)
    artifacts = project.data / "mlflow" / "artifacts" / "tiny"
    assert {path.name for path in artifacts.glob("*/")} == mlflow_runs | {"models"}
    assert len(list((artifacts / "models").glob("*/"))) == len(kept)
    for split in ("train", "val"):
        tags = lance.dataset(project.data / "lance" / f"tiny_{split}.lance").tags.list()
        assert len([tag for tag in tags if tag.startswith("trained.")]) == len(kept)
    assert_nothing_dangles(project)


def assert_nothing_dangles(project: Project) -> None:
    """Everything that records refer to exists."""
    client, known = MlflowTracking().client(), set()
    for run_id in project.records():
        model = record(project, run_id)
        load_model(Path(model.folder), model.sha256)
        assert client.get_run(model.mlflow_run_id).info.lifecycle_stage == "active"
        assert project.instance.has_run(run_id)
        known.add(model.mlflow_run_id)
    for split in ("val", "test"):
        for run_id in project.records(f"metrics_{split}"):
            path = project.data / "dagster" / "records" / "tiny" / f"metrics_{split}" / f"{run_id}.json"
            assert Metrics.model_validate_json(path.read_bytes()).mlflow_run_id in known
    for asset in ("raw_images", "lance_train", "lance_val", "lance_test", "resnet34", "metrics_val", "metrics_test"):
        latest = project.instance.get_latest_materialization_event(dg.AssetKey(["tiny", asset]))
        assert latest is not None
        assert latest.run_id in project.records(asset)


class Killed(BaseException):
    """Stands in for a signal that cannot be handled."""


@contextmanager
def killed_after(project: Project, steps: int) -> Iterator[None]:
    """The process "ends" after this number of operations on the disk."""
    left = steps
    storage = project.instance

    def ending(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            result = original(*args, **kwargs)
            left -= 1
            if left == 0:
                raise Killed
            return result

        return call

    places: list[tuple[Any, str]] = [
        (Path, "unlink"),
        (os, "replace"),
        (models, "remove"),
        (runs, "remove"),
        (maintenance, "release_version"),
        (MlflowClient, "delete_logged_model"),
        (MlflowClient, "delete_run"),
        (Tracking, "_remove_artifacts"),
        (SqlAlchemyStore, "_hard_delete_logged_model"),
        (SqlAlchemyStore, "_hard_delete_run"),
        (type(storage.event_log_storage), "delete_events"),
        (type(storage.run_storage), "delete_run"),
    ]
    with pytest.MonkeyPatch.context() as patch:
        for place, name in places:
            patch.setattr(place, name, ending(getattr(place, name)))
        yield


def test_a_removal_may_be_cut_short_anywhere(project: Project, trained: Runs, restored: Callable[[], None]):
    steps = 0
    while True:
        steps += 1
        try:
            with killed_after(project, steps):
                project.retention().apply(lambda line: None)
            break
        except Killed:
            assert_nothing_dangles(project)
        project.retention().apply(lambda line: None)
        assert_removed(project, trained)
        restored()
    assert steps > 12


def test_a_run_that_has_not_ended_keeps_what_it_may_read(project: Project, trained: Runs, restored: Callable[[], None]):
    run = create_run_for_test(project.instance, status=dg.DagsterRunStatus.STARTED)
    assert project.retention().plan().removed
    with closing(sqlite3.connect(project.data / "dagster" / "history" / "runs.db")) as database, database:
        database.execute("UPDATE runs SET create_timestamp = '2020-01-01' WHERE run_id = ?", (run.run_id,))
    plan = project.retention().plan()
    assert trained["plain"] in {one.model for one in plan.kept}
    assert not [one for one in plan.removed if one.what == "model"]


def test_without_mlflow_no_model_goes(project: Project, trained: Runs):
    retention = project.retention(mlflow=MlflowTracking(tracking_uri="http://127.0.0.1:9"))
    outcome = retention.apply(lambda line: None)
    assert not [one for one in outcome.removed if one.what == "model"]
    assert "127.0.0.1:9" in outcome.troubles[0]
    assert project.models() == set(trained.values())


def test_what_a_failed_training_left_goes_and_what_nobody_knows_stays(
    project: Project, trained: Runs, restored: Callable[[], None]
):
    failed = create_run_for_test(project.instance, status=dg.DagsterRunStatus.FAILURE).run_id
    for name in (failed, "of-another-instance"):
        (project.data / "models" / "tiny" / name).mkdir()
    project.retention(models=20, days=90).apply(lambda line: None)
    assert project.models() == {*trained.values(), "of-another-instance"}
