"""MLflow's content after a training, and training while MLflow is unreachable."""

import json
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import fields
from pathlib import Path

import dagster as dg
import lance
import mlflow
import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PyFuncModel
from mlflow.pyfunc import load_model as load_from_mlflow
from mlflow.types import DataType, Schema

import lance_pipeline
from lance_pipeline.errors import InputError, ServiceError
from lance_pipeline.images import ImageLoader
from lance_pipeline.orchestration.cli.reproduction import training_and_weights
from lance_pipeline.orchestration.records import Metrics, Model, Split
from lance_pipeline.orchestration.tracking.mlflow_tracking import TRAINING_TAG, MlflowTracking
from lance_pipeline.orchestration.tracking.run_names import NUMBER_TAG
from lance_pipeline.orchestration.tracking.tracked_run import TrackedRun
from lance_pipeline.orchestration.tracking.training_log import log_training
from lance_pipeline.training.history import Epoch
from lance_pipeline.training.weights import load_model
from lance_pipeline_tests.browser.launcher import await_condition
from lance_pipeline_tests.lacking_servers import answering
from lance_pipeline_tests.orchestration.conftest import RECIPE, Graph, failure_of


def test_mlflow_holds_the_training(finished_graph: Graph):
    model = finished_graph.record("resnet34", Model)
    client = MlflowTracking().client()
    run = client.get_run(model.mlflow_run_id)

    assert run.info.status == "FINISHED"
    assert run.data.params["epochs"] == "2"
    assert run.data.params["image_size"] == "32"
    assert not {"None", "auto"} & set(run.data.params.values())
    for name in (
        "train_loss",
        "val_accuracy",
        "val_loss",
        "duration",
        "images_per_second",
        "data_wait",
        "learning_rate",
        "best_val_accuracy",
    ):
        assert [point.step for point in client.get_metric_history(model.mlflow_run_id, name)] == [1, 2], name
    assert "seconds_left" not in run.data.metrics
    assert run.data.metrics["best_val_accuracy"] == model.val_accuracy
    assert run.data.tags["dagster.asset_key"] == "tiny/resnet34"
    assert run.data.tags["lance.train.version"] == str(model.train.version)
    event = finished_graph.instance.get_latest_materialization_event(dg.AssetKey(["tiny", "resnet34"]))
    assert event is not None
    assert run.data.tags["dagster.run_id"] == event.run_id

    assert run.inputs is not None
    inputs = {one.dataset.name: one for one in run.inputs.dataset_inputs}
    assert inputs.keys() == {"tiny_train", "tiny_val", "tiny_test"}
    tags = {tag.key: tag.value for tag in inputs["tiny_train"].tags}
    assert tags["lance.fingerprint"] == model.train.fingerprint
    assert run.data.tags["training_id"] == finished_graph.metadata("resnet34")["training_id"]
    assert run.data.tags["lance_pipeline.version"] == lance_pipeline.__version__
    assert _artifacts(client, model.mlflow_run_id) == {
        "training.json",
        "environment.json",
        "learning_curve.png",
        *(f"metrics_{split}/{name}" for split in ("val", "test") for name in ("confusion.png", "metrics.json")),
    }


def test_the_run_is_named_and_noted(finished_graph: Graph):
    model = finished_graph.record("resnet34", Model)
    run = MlflowTracking().client().get_run(model.mlflow_run_id)
    assert run.info.run_name == f"tiny-0001 val {model.val_accuracy * 100:.1f} %"
    note = run.data.tags["mlflow.note.content"]
    for words in (
        "tiny: train version 1 (13 images in 2 classes), val version 1",
        "epochs: 2, batch_size: 4, flip: False, crop_padding: 0",
        f"(/runs/{run.data.tags['dagster.run_id']})",
    ):
        assert words in note
    experiment = MlflowTracking().client().get_experiment(run.info.experiment_id)
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"


def test_the_evaluations_are_the_logged_models(finished_graph: Graph):
    model, client = finished_graph.record("resnet34", Model), MlflowTracking().client()
    logged = client.get_logged_model(finished_graph.metadata("resnet34")["mlflow_model"].removeprefix("models:/"))
    run = client.get_run(model.mlflow_run_id)
    assert run.inputs is not None
    digests = {one.dataset.name: one.dataset.digest for one in run.inputs.dataset_inputs}
    for split in ("val", "test"):
        metrics = finished_graph.record(f"metrics_{split}", Metrics)
        measured = {one.key: one.value for one in logged.metrics or [] if one.dataset_name == f"tiny_{split}"}
        assert measured == {name: getattr(metrics, name) for name in measured}
        assert {"accuracy", "macro_f1"} <= measured.keys()
        assert {one.dataset_digest for one in logged.metrics or [] if one.dataset_name == f"tiny_{split}"} == {
            digests[f"tiny_{split}"]
        }
    # Charts of the training have one point for each epoch.
    for name in run.data.metrics:
        if not name.startswith("system/"):
            assert [one.step for one in client.get_metric_history(run.info.run_id, name)] == [1, 2], name


def test_an_evaluation_that_was_logged_is_not_logged_again(finished_graph: Graph):
    run = MlflowTracking().existing_run(finished_graph.record("resnet34", Model).mlflow_run_id)
    split = finished_graph.record("lance_test", Split)
    runs = len(run.client.search_runs([run.experiment_id]))
    run.log_evaluation("tiny_test", "test", split, {"accuracy": 0.5})
    assert len(run.client.search_runs([run.experiment_id])) == runs


def test_an_evaluation_that_lost_the_server_leaves_nothing(finished_graph: Graph, tmp_path: Path):
    database = tmp_path / "mlflow.db"
    run = MlflowTracking(tracking_uri=f"sqlite:///{database}").open_training("tiny", {TRAINING_TAG: "a"})
    split = finished_graph.record("lance_test", Split)
    with without("metrics", database), pytest.raises(MlflowException, match="no such table"):
        run.log_evaluation("tiny_test", "test", split, {"accuracy": 0.5})
    run.log_evaluation("tiny_test", "test", split, {"accuracy": 0.5})
    evaluations = [one for one in run.client.search_runs([run.experiment_id]) if one.info.run_id != run.run_id]
    assert [(one.info.status, one.data.metrics) for one in evaluations] == [("FINISHED", {"accuracy": 0.5})]


def test_datasets_have_schema_and_profile(finished_graph: Graph):
    run = MlflowTracking().client().get_run(finished_graph.record("resnet34", Model).mlflow_run_id)
    assert run.inputs is not None
    (train,) = (one.dataset for one in run.inputs.dataset_inputs if one.dataset.name == "tiny_train")
    columns = Schema.from_json(json.dumps(json.loads(train.schema or "")["mlflow_colspec"]))
    types = dict(zip(columns.input_names(), columns.input_types(), strict=True))
    assert types["image"] == DataType.binary
    assert types["label"] == DataType.string
    assert json.loads(train.profile or "") == {
        "num_rows": 13,
        "num_classes": 2,
        "images_per_class": {"cat": 7, "dog": 6},
    }


def test_no_two_runs_have_one_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LANCE_PIPELINE_DATA", str(tmp_path / "data"))
    tracking = MlflowTracking()
    tracking.client()

    def opened(training: int) -> str:
        return MlflowTracking().open_training("tiny", {TRAINING_TAG: str(training)}).name

    with ThreadPoolExecutor(4) as beside:
        names = list(beside.map(opened, range(8)))
    assert sorted(names) == [f"tiny-{number:04d}" for number in range(1, 9)]
    # A resumed run keeps its name, and the name of a removed run is not reused.
    client = tracking.client()
    run = tracking.open_training("tiny", {TRAINING_TAG: "3"})
    assert run.name == names[3]
    run.name_result("val", 0.98765)
    run.end("FINISHED")
    again = tracking.open_training("tiny", {TRAINING_TAG: "3"})
    assert (again.run_id, again.name) == (run.run_id, f"{names[3]} val 98.8 %")
    client.delete_run(tracking.open_training("tiny", {TRAINING_TAG: "last"}).run_id)
    assert opened(99) == "tiny-0010"


def test_two_hosts_that_take_one_number_of_a_server_both_see_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LANCE_PIPELINE_DATA", str(tmp_path / "data"))
    tracking = MlflowTracking()
    first = tracking.open_training("tiny", {TRAINING_TAG: "a"})
    # Simulates another host, between reading the number and writing it.
    first.client.set_experiment_tag(first.experiment_id, NUMBER_TAG, "0")
    second = tracking.open_training("tiny", {TRAINING_TAG: "b"})
    assert {first.name, second.name} == {"tiny-0001", "tiny-0002"}


def test_the_page_has_the_recipe_that_was_used(finished_graph: Graph):
    recipe = finished_graph.metadata("resnet34")["recipe"]
    card = load_model(Path(finished_graph.record("resnet34", Model).folder))[1]
    expected = {"epochs": 2, "batch_size": 4, "learning_rate": 0.05, "image_size": 32, "crop_padding": 0}
    assert {name: recipe[name] for name in expected} == expected
    assert recipe["mean"] == pytest.approx(card.mean, abs=1e-4)
    # The recipe is not in the definitions, which may have changed since.
    (model,) = (asset for asset in finished_graph.assets if dg.AssetKey(["tiny", "resnet34"]) in asset.keys)
    assert "recipe" not in model.metadata_by_key[dg.AssetKey(["tiny", "resnet34"])]


def _artifacts(client: MlflowClient, run_id: str) -> set[str]:
    top = client.list_artifacts(run_id)
    below = [entry for folder in top if folder.is_dir for entry in client.list_artifacts(run_id, folder.path)]
    return {entry.path for entry in (*top, *below) if not entry.is_dir}


FORMATS = {"", ".json", ".py", ".safetensors", ".txt", ".yaml"}


def _load(model_uri: str) -> PyFuncModel:
    """Load the model as a user who has only MLflow."""
    with pytest.MonkeyPatch.context() as patch:
        # MLflow sets this variable too; patching it here restores it afterwards.
        patch.setenv("MLFLOW_TRACKING_URI", address := MlflowTracking().address.full())
        mlflow.set_tracking_uri(address)
        return load_from_mlflow(model_uri)


@pytest.mark.parametrize("count", [1, 3])
def test_mlflow_loads_the_model(finished_graph: Graph, count: int):
    record, metadata = finished_graph.record("resnet34", Model), finished_graph.metadata("resnet34")
    network, card = load_model(Path(record.folder))
    places = {"batch_size": count, "image_size": record.image_size, "training": False, "cache": None}
    images, _ = next(iter(ImageLoader(record.val.uri, version=record.val.version, normalize=None, **places)))
    normalized, _ = next(
        iter(ImageLoader(record.val.uri, version=record.val.version, normalize=(card.mean, card.std), **places))
    )

    loaded = _load(metadata["mlflow_model"])
    assert loaded.metadata.metadata is not None
    probabilities = loaded.predict(images.float().numpy())
    assert probabilities.dtype == np.float32
    with torch.inference_mode():
        expected = network(normalized).softmax(dim=1)
    np.testing.assert_allclose(probabilities, expected.numpy(), atol=1e-5)
    assert loaded.metadata.metadata["classes"] == record.classes
    assert loaded.metadata.signature.inputs.inputs[0].shape == (-1, 3, record.image_size, record.image_size)


def test_the_logged_model_has_the_example_and_the_figures_of_its_epoch(finished_graph: Graph):
    record, metadata = finished_graph.record("resnet34", Model), finished_graph.metadata("resnet34")
    client = MlflowTracking().client()
    model = client.get_logged_model(metadata["mlflow_model"].removeprefix("models:/"))
    assert model.source_run_id == record.mlflow_run_id
    assert {metric.key: metric.value for metric in model.metrics or []}["val_accuracy"] == record.val_accuracy
    outputs = client.get_run(record.mlflow_run_id).outputs
    assert outputs is not None
    assert [(one.model_id, one.step) for one in outputs.model_outputs] == [(model.model_id, record.best_epoch)]
    folder = Path(model.artifact_location.removeprefix("file://"))
    # No file needs unpickling.
    assert {path.name for path in (folder / "artifacts").iterdir()} == {"model.json", "model.safetensors"}
    assert {path.suffix for path in folder.rglob("*") if path.is_file()} <= FORMATS
    example = json.loads((folder / "input_example.json").read_text())
    assert np.array(example).shape == (2, 3, record.image_size, record.image_size)


def test_a_model_that_was_logged_already_is_not_logged_again(finished_graph: Graph):
    record, metadata = finished_graph.record("resnet34", Model), finished_graph.metadata("resnet34")
    run = MlflowTracking().existing_run(record.mlflow_run_id)
    training, _ = training_and_weights(run)
    best = Epoch(**{field.name: 0 for field in fields(Epoch)} | training.history[record.best_epoch - 1])  # pyright: ignore[reportArgumentType]
    assert log_training(run, "tiny", training, Path(record.folder), best, b"") == metadata["mlflow_model"]
    outputs = run.client.get_run(run.run_id).outputs
    assert outputs is not None
    assert len(outputs.model_outputs) == 1


def test_another_version_of_the_same_content_is_another_dataset(graph: Graph):
    assert graph.materialize("raw_images", "lance_train", "lance_val").success
    split = graph.record("lance_train", Split)
    table = lance.dataset(split.data.uri)
    table.update_metadata({"touched": "yes"})
    later = split.model_copy(update={"data": split.data.model_copy(update={"version": table.latest_version})})
    run = MlflowTracking().open_training("tiny", {TRAINING_TAG: "a"})
    for one in (split, later):
        run.log_dataset("tiny_train", "training", one)
    inputs = run.client.get_run(run.run_id).inputs
    assert inputs is not None
    sources = [json.loads(one.dataset.source) for one in inputs.dataset_inputs if one.dataset.name == "tiny_train"]
    assert {source["version"] for source in sources} == {1, 2}


def test_an_experiment_that_was_deleted_is_named(graph: Graph):
    assert graph.materialize("raw_images", "lance_train", "lance_val").success
    client = MlflowTracking().client()
    client.delete_experiment(client.create_experiment("tiny"))
    message = failure_of(graph.materialize("resnet34"))
    assert "the experiment 'tiny' was deleted from MLflow at sqlite:///" in message
    assert "mlflow experiments restore --experiment-id" in message


def test_a_run_that_was_opened_twice_does_not_count_as_running(graph: Graph):
    assert graph.materialize("raw_images", "lance_train", "lance_val").success
    # Simulates a server that created the run but whose response was lost.
    tracking, place = MlflowTracking(), {"checkpoint_folder": "host:/folder"}
    first, second = (tracking.open_training("tiny", {TRAINING_TAG: name, **place}) for name in ("a", "b"))
    assert first.run_id != second.run_id
    second.kill_others(place)
    assert [second.client.get_run(run.run_id).info.status for run in (first, second)] == ["KILLED", "RUNNING"]


@contextmanager
def without(table: str, database: Path) -> Iterator[None]:
    """Within the context, MLflow's database rejects everything that needs this table, at once and without locks."""
    with closing(sqlite3.connect(database)) as connection:
        connection.execute(f"ALTER TABLE {table} RENAME TO away")
        yield
        connection.execute(f"ALTER TABLE away RENAME TO {table}")


def test_no_point_of_the_systems_load_is_doubled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    database = tmp_path / "mlflow.db"
    tracking = MlflowTracking(tracking_uri=f"sqlite:///{database}")

    def opened() -> TrackedRun:
        return tracking.open_training("tiny", {TRAINING_TAG: "a"})

    def steps() -> list[int]:
        points = run.client.get_metric_history(run.run_id, "system/cpu_utilization_percentage")
        return [point.step for point in points]

    run = opened()
    run.watch_system()
    await_condition(lambda: len(steps()) > 1, 30, "points")
    run.end("KILLED")

    run = opened()
    # MLflow cannot report the run's latest step.
    with without("latest_metrics", database), pytest.raises(MlflowException, match="no such table"):
        run.watch_system()
    run.watch_system()
    told = len(steps())
    await_condition(lambda: len(steps()) > told, 30, "points of the training that goes on")
    # MLflow responds but rejects points.
    with without("metrics", database):
        await_condition(lambda: "Failed to log system metrics" in caplog.text, 60, "a point is refused")
    told = len(steps())
    await_condition(lambda: len(steps()) > told + 2, 30, "points after that")
    run.end("FINISHED")
    assert steps() == list(range(len(steps())))


def test_the_evaluation_has_the_precision_of_the_recipe(graph: Graph, monkeypatch: pytest.MonkeyPatch):
    # The CPU does not support bf16, so only a step that asks for it fails.
    monkeypatch.setenv("LANCE_PIPELINE_PRECISION", "bf16")
    graph.attributes["recipe"] = RECIPE | {"precision": "fp32"}
    assert graph.materialize().success


def test_no_password_is_shown(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://somebody:s3cret@127.0.0.1:9")
    tracking = MlflowTracking()
    # Dagster would show and store this configuration.
    with pytest.raises(ValueError, match="MLFLOW_TRACKING_URI") as refusal:
        MlflowTracking(tracking_uri="http://somebody:s3cret@127.0.0.1:9")
    assert "s3cret" not in str(refusal.value)
    with pytest.raises(ServiceError, match=r"MLflow at http://127\.0\.0\.1:9 cannot be used") as failure:
        tracking.client()
    assert "s3cret" not in str(failure.value)
    assert "s3cret" not in tracking.url("1", "2")


def test_unreachable_mlflow_fails_clearly_and_at_once(graph: Graph, monkeypatch: pytest.MonkeyPatch):
    graph.attributes["retries"] = {"times": 0}
    assert graph.materialize("raw_images", "lance_train", "lance_val").success
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    message = failure_of(graph.materialize("resnet34"))
    assert "http://127.0.0.1:9 cannot be used" in message
    assert "MLFLOW_TRACKING_URI" in message


def test_only_what_the_client_raises_is_about_mlflow(tmp_path: Path):
    tracking = MlflowTracking(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    for error in (FileNotFoundError("model.safetensors"), ImportError("torch"), ConnectionRefusedError()):
        with pytest.raises(type(error)) as caught, tracking.clear_errors():
            raise error
        assert caught.value is error
    # A store of artifacts that cannot be written.
    (tmp_path / "file").write_text("")
    client = tracking.client()
    experiment = client.create_experiment("below", artifact_location=str(tmp_path / "file" / "artifacts"))
    run = client.create_run(experiment)
    with pytest.raises(InputError, match=r"MLflow at sqlite:.*cannot be used"), tracking.clear_errors():
        client.log_artifact(run.info.run_id, str(tmp_path / "file"))


@pytest.mark.parametrize(("status", "kind"), [(503, ServiceError), (401, InputError)])
def test_a_server_that_is_busy_is_not_one_that_refuses(status: int, kind: type[Exception], monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with answering(status) as address, pytest.raises(kind, match=f"MLflow at {address} cannot be used"):
        MlflowTracking(tracking_uri=address).client()


def test_a_run_is_not_called_unknown_while_the_database_is_away(tmp_path: Path):
    database = tmp_path / "mlflow.db"
    tracking = MlflowTracking(tracking_uri=f"sqlite:///{database}")
    run = tracking.open_training("tiny", {TRAINING_TAG: "a"})
    with without("runs", database), pytest.raises(InputError) as caught:
        tracking.existing_run(run.run_id)
    assert "no such table" in str(caught.value)
    with pytest.raises(InputError, match="does not know the run"):
        tracking.existing_run("0" * 32)
