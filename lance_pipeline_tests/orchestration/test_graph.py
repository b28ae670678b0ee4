"""The graph, in process, on a tiny dataset."""

import io
import json
from collections import Counter
from pathlib import Path

import dagster as dg
import lance
import pytest
import torch
from PIL import Image

from lance_pipeline.orchestration.records import Metrics, Model, RawImages, Split
from lance_pipeline.orchestration.runtime.gpu import GpuResource
from lance_pipeline.orchestration.tracking.mlflow_tracking import MlflowTracking
from lance_pipeline.training.weights import load_model
from lance_pipeline_tests.image_folders import class_image
from lance_pipeline_tests.orchestration.conftest import COUNTS, RECIPE, Graph, failure_of


def test_records_name_exact_versions(finished_graph: Graph):
    raw = finished_graph.record("raw_images", RawImages)
    train = finished_graph.record("lance_train", Split)
    model = finished_graph.record("resnet34", Model)
    metrics = finished_graph.record("metrics_test", Metrics)

    assert raw.classes == ["cat", "dog"]
    assert raw.counts == COUNTS
    assert train.rows == sum(COUNTS["train"].values())
    assert lance.dataset(train.data.uri, version=train.data.version).count_rows() == train.rows
    assert model.train == train.data
    assert metrics.model_sha256 == model.sha256
    assert metrics.split == finished_graph.record("lance_test", Split).data
    predictions = lance.dataset(metrics.predictions.uri, version=metrics.predictions.version).to_table()
    assert predictions.num_rows == sum(COUNTS["test"].values())
    assert metrics.accuracy == pytest.approx(sum(predictions["correct"].to_pylist()) / predictions.num_rows)


def test_versions_that_a_model_was_trained_on_are_tagged(finished_graph: Graph):
    model = finished_graph.record("resnet34", Model)
    training_id = finished_graph.metadata("resnet34")["training_id"]
    for data in (model.train, model.val):
        assert lance.dataset(data.uri).tags.list()[f"trained.{training_id}"]["version"] == data.version


def test_weights_explain_themselves(finished_graph: Graph):
    model = finished_graph.record("resnet34", Model)
    card = json.loads((Path(model.folder) / "model.json").read_text())
    assert {"architecture", "classes", "stem", "image_size", "mean", "std"} <= card.keys()
    network, _ = load_model(Path(model.folder), model.sha256)
    assert network(torch.zeros(1, 3, 32, 32)).shape == (1, len(model.classes))


def test_each_epoch_is_observed(finished_graph: Graph):
    records = finished_graph.instance.fetch_observations(dg.AssetKey(["tiny", "resnet34"]), limit=10).records
    told = [record.asset_observation.metadata for record in records if record.asset_observation]
    assert [(one["epoch"].value, one["epochs"].value) for one in told] == [(2, "2"), (1, "2")]
    figures = {
        "train_loss",
        "val_loss",
        "val_accuracy",
        "learning_rate",
        "images_per_second",
        "seconds_left",
        "data_wait",
    }
    assert all(figures <= one.keys() for one in told)


def test_asset_pages_tell_what_is_there(finished_graph: Graph):
    split = finished_graph.metadata("lance_train")
    assert split["dagster/row_count"] == sum(COUNTS["train"].values())
    assert [column.name for column in split["dagster/column_schema"].columns[:4]] == [
        "image",
        "filename",
        "label",
        "split",
    ]
    assert split["size"].endswith(" kB")
    assert split["lance_version"] == "1"
    for asset in ("lance_train", "lance_val", "lance_test", "metrics_val", "metrics_test"):
        columns = finished_graph.metadata(asset)["dagster/column_schema"].columns
        assert all(column.description for column in columns), asset
    assert all(column.description for column in split["quarantine_columns"].columns)
    for asset, picture in (("lance_train", "classes"), ("lance_train", "samples"), ("metrics_test", "confusion")):
        text = finished_graph.metadata(asset)[picture]
        assert text.startswith("![picture](data:image/")
        assert len(text) < 100_000

    model = finished_graph.metadata("resnet34")
    assert model["learning_curve"].startswith("![picture](data:image/")
    assert model["device"] in ("cpu", "cuda", "mps")
    assert model["device_reason"].startswith("auto: ")
    assert finished_graph.record("resnet34", Model).mlflow_run_id in model["mlflow_run"]


def test_article_reader_reads_our_datasets(finished_graph: Graph):
    record = finished_graph.record("lance_train", Split)
    table = lance.dataset(record.data.uri).to_table()
    assert table.column_names[:4] == ["image", "filename", "label", "split"]
    for index in range(len(table)):
        image = Image.open(io.BytesIO(table["image"][index].as_py()))
        image = image if image.mode == "RGB" else image.convert("RGB")
        label = table["label"][index].as_py()
        raw = finished_graph.images / "train" / label / table["filename"][index].as_py()
        assert raw.read_bytes() == table["image"][index].as_py()
        assert image.size == (12, 12)
    assert Counter(table["label"].to_pylist()) == COUNTS["train"]


def test_second_run_of_the_same_images_makes_no_new_version(graph: Graph):
    data = ("raw_images", "lance_train", "lance_val", "lance_test")
    assert graph.materialize(*data).success
    first = {split: graph.record(split, Split) for split in data[1:]}
    for file in graph.images.rglob("*.png"):
        file.touch()
    assert graph.materialize(*data).success
    assert {split: graph.record(split, Split) for split in data[1:]} == first


def test_evaluation_stays_with_the_versions_of_its_records(graph: Graph):
    """A later version of the dataset must not leak into metrics whose lineage names an earlier one."""
    assert graph.materialize().success
    before = graph.record("metrics_test", Metrics)
    versions = graph.data_versions()

    class_image(0, size=12, rng=_rng()).save(graph.images / "test" / "cat" / "more.png")
    assert graph.materialize("raw_images", "lance_test").success
    assert graph.materialize("metrics_val").success
    assert graph.materialize("metrics_test").success

    after = graph.record("metrics_test", Metrics)
    assert after.split.version == before.split.version + 1
    assert after.model_sha256 == before.model_sha256
    changed = {name for name, version in graph.data_versions().items() if version != versions[name]}
    assert changed == {"raw_images", "lance_test", "metrics_test"}


def _rng():
    import numpy as np

    return np.random.default_rng(1)


def test_one_split_alone_can_be_materialized(graph: Graph):
    assert graph.materialize("raw_images").success
    assert graph.materialize("lance_val").success
    assert graph.record("lance_val", Split).rows == sum(COUNTS["val"].values())
    assert graph.instance.get_latest_materialization_event(dg.AssetKey(["tiny", "lance_train"])) is None


def test_valid_folder_is_val(graph: Graph):
    (graph.images / "val").rename(graph.images / "valid")
    graph.attributes["splits"] = {"val": "valid"}
    assert graph.materialize("raw_images", "lance_val").success
    split = graph.record("lance_val", Split)
    assert set(lance.dataset(split.data.uri).to_table(["split"])["split"].to_pylist()) == {"val"}


def test_one_folder_of_classes_is_cut_by_fractions(graph: Graph):
    for label in ("cat", "dog"):
        for number in range(60):
            class_image(0, _rng(), 8 + number).save(graph.images / "train" / label / f"more{number}.png")
    graph.images = graph.images / "train"
    graph.attributes["splits"] = {"fractions": {"train": 0.6, "val": 0.2, "test": 0.2}}
    assert graph.materialize("raw_images", "lance_train", "lance_val", "lance_test").success
    rows = [graph.record(f"lance_{split}", Split).rows for split in ("train", "val", "test")]
    assert sum(rows) == 120 + sum(COUNTS["train"].values())
    assert rows[0] > max(rows[1:])


def test_missing_folder_fails_clearly(graph: Graph):
    graph.attributes["source"] = {"folder": "/nowhere/flowers"}
    message = failure_of(graph.materialize("raw_images"))
    assert "/nowhere/flowers" in message
    assert "source" in message


def test_file_that_is_no_image_fails_clearly_and_stops_what_follows(graph: Graph):
    (graph.images / "train" / "cat" / "notes.txt").write_text("no image")
    result = graph.materialize()
    message = failure_of(result)
    assert "notes.txt" in message
    assert "1 of 14 files" in message
    failed = next(event for event in result.all_events if event.is_step_failure)
    data = failed.step_failure_data.user_failure_data
    assert data is not None
    assert "notes.txt" in str(data.metadata["details"].value)
    materialized = {event.asset_key.path[-1] for event in result.get_asset_materialization_events() if event.asset_key}
    assert "lance_train" not in materialized
    assert "resnet34" not in materialized


def test_absent_gpu_fails_clearly(graph: Graph):
    assert graph.materialize("raw_images", "lance_train", "lance_val").success
    message = failure_of(graph.materialize("resnet34", gpu=GpuResource(device="cuda:99", precision="auto")))
    assert "cuda:99" in message
    assert "auto" in message


def test_a_dataset_has_its_own_device(graph: Graph):
    # This covers training and evaluation: with the resource's device both would fail.
    graph.attributes["device"] = ["cpu"]
    assert graph.materialize(gpu=GpuResource(device="cuda:99")).success
    metadata = graph.metadata("resnet34")
    assert (metadata["device"], metadata["device_reason"]) == ("cpu", "`device: cpu` is configured")


def test_unavailable_weights_fail_clearly_and_mark_the_mlflow_run_failed(graph: Graph):
    assert graph.materialize("raw_images", "lance_train", "lance_val").success
    graph.attributes["recipe"] = {"epochs": 1, "weights": "nowhere.safetensors"}
    message = failure_of(graph.materialize("resnet34"))
    assert "nowhere.safetensors" in message
    runs = MlflowTracking().client().search_runs(["1"])
    assert [run.info.status for run in runs] == ["FAILED"]


def test_unwritable_data_folder_fails_clearly(graph: Graph, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "file").write_text("a file where a folder should be")
    monkeypatch.setenv("LANCE_PIPELINE_DATA", str(tmp_path / "file" / "data"))
    message = failure_of(graph.materialize("raw_images"))
    assert str(tmp_path / "file" / "data") in message
    assert "LANCE_PIPELINE_DATA" in message


def test_asset_that_was_never_materialized_is_named(graph: Graph):
    assert "tiny/raw_images was never materialized" in failure_of(graph.materialize("lance_train"))


def test_settings_that_change_the_data_change_the_code_version(graph: Graph):
    def code_versions() -> dict[str, str | None]:
        return {spec.key.path[-1]: spec.code_version for asset in graph.assets for spec in asset.specs}

    before = code_versions()
    graph.attributes["splits"] = {"val": "valid"}
    assert {name for name, version in code_versions().items() if version != before[name]} == {"raw_images"}
    graph.attributes = {"recipe": RECIPE | {"epochs": 3}}
    assert {name for name, version in code_versions().items() if version != before[name]} == {"resnet34"}
