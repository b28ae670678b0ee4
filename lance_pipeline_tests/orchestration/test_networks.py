"""A data set whose network is changed: each one goes from images to metrics, and all that was made stays."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import mlflow
import numpy as np
import pytest
import torch
from mlflow.pyfunc import load_model as load_from_mlflow

from lance_pipeline.images import ImageLoader
from lance_pipeline.orchestration.cli.summary import print_summary
from lance_pipeline.orchestration.records import Metrics, Model
from lance_pipeline.orchestration.tracking.mlflow_tracking import MlflowTracking
from lance_pipeline.training.weights import load_model
from lance_pipeline_tests.image_folders import write_image_folder
from lance_pipeline_tests.orchestration.conftest import RECIPE
from lance_pipeline_tests.orchestration.retention.conftest import DATA, Project

COUNTS = {"train": {"cat": 3, "dog": 2}, "val": {"cat": 2, "dog": 1}, "test": {"cat": 1, "dog": 1}}
# The smallest that each takes, or 32.
SIZES = {"resnet18": 32, "resnet50": 32, "convnext_tiny": 32, "efficientnet_b0": 32, "vit_b_16": 224}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A data set with its splits, and no model."""
    folder = tmp_path_factory.mktemp("networks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LANCE_PIPELINE_DATA", str(folder / "data"))
        patch.setenv("DAGSTER_HOME", str(folder / "data" / "dagster"))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        (folder / "data" / "dagster").mkdir(parents=True)
        write_image_folder(folder / "images", COUNTS)
        with dg.DagsterInstance.get() as instance:
            project = Project(instance, folder / "images")
            assert project.materialize(*DATA).success
            yield project


def use(project: Project, network: str, **recipe: Any) -> None:
    attributes = {"model": network, "image_size": SIZES[network], "recipe": RECIPE | {"epochs": 1} | recipe}
    project.attributes = attributes


@pytest.mark.parametrize("network", SIZES)
def test_a_network_goes_from_images_to_metrics(project: Project, network: str):
    use(project, network)
    assert project.materialize(network, "metrics_val", "metrics_test").success
    record = project.record(network, Model)
    model, card = load_model(Path(record.folder))
    assert (record.network, card.architecture, record.image_size) == (network, network, SIZES[network])
    assert {project.record(f"metrics_{split}", Metrics).model_sha256 for split in ("val", "test")} == {record.sha256}
    run = MlflowTracking().client().get_run(record.mlflow_run_id)
    assert (run.data.params["model"], run.data.tags["dagster.asset_key"]) == (network, f"tiny/{network}")

    places: dict[str, Any] = {"batch_size": 2, "image_size": record.image_size, "training": False, "cache": None}
    images, _ = next(iter(ImageLoader(record.val.uri, normalize=None, **places)))
    normalized, _ = next(iter(ImageLoader(record.val.uri, normalize=(card.mean, card.std), **places)))
    with torch.inference_mode():
        expected = model(normalized).softmax(dim=1)
    found = loaded_by_mlflow(project.metadata(network)["mlflow_model"]).predict(images.float().numpy())
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


def loaded_by_mlflow(uri: str) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", address := MlflowTracking().address.full())
        mlflow.set_tracking_uri(address)
        return load_from_mlflow(uri)


def test_the_models_of_all_networks_stay(project: Project, capsys: pytest.CaptureFixture[str]):
    """After the tests above: their limits are common, and the latest of each network stays whatever they are."""
    runs = {network: project.record(network, Model).folder for network in SIZES}
    assert project.retention(models=1, days=0).apply(print).removed == []
    assert project.models() == {Path(folder).name for folder in runs.values()}
    for network in SIZES:
        load_model(Path(runs[network]))

    print_summary("tiny")
    assert capsys.readouterr().out.count("model.safetensors   vit_b_16") == 1
