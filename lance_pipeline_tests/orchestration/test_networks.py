"""A dataset whose network is changed: each network gets from images to metrics, and earlier results stay."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import mlflow
import numpy as np
import pytest
import torch
from mlflow.pyfunc import load_model as load_from_mlflow

from lance_pipeline import ImageClassifier
from lance_pipeline.images import ImageLoader
from lance_pipeline.orchestration.attributes import ImageClassifierAttributes
from lance_pipeline.orchestration.cli.reproduction import reproduce
from lance_pipeline.orchestration.cli.summary import print_summary
from lance_pipeline.orchestration.records import Metrics, Model, Training
from lance_pipeline.orchestration.resources import default_resources
from lance_pipeline.orchestration.runtime.resumption import checkpoints_to_use
from lance_pipeline.orchestration.tracking.mlflow_tracking import MlflowTracking
from lance_pipeline.training.checkpoint import Checkpoints
from lance_pipeline.training.device import choose_device
from lance_pipeline.training.inputs import TrainingInputs
from lance_pipeline.training.networks import NETWORKS
from lance_pipeline.training.recipe import Recipe
from lance_pipeline.training.weights import load_model
from lance_pipeline_tests.image_folders import write_image_folder
from lance_pipeline_tests.orchestration.conftest import RECIPE
from lance_pipeline_tests.orchestration.retention.conftest import DATA, Project

COUNTS = {"train": {"cat": 3, "dog": 2}, "val": {"cat": 2, "dog": 1}, "test": {"cat": 1, "dog": 1}}
# Small sizes, where the network accepts them.
SIZES = {"resnet18": 32, "resnet50": 32, "convnext_tiny": 32, "efficientnet_b0": 32, "vit_b_16": 224}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A project with splits but no model."""
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
    attributes = {"model": network, "image_size": SIZES.get(network, 32), "recipe": RECIPE | {"epochs": 1} | recipe}
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


def trained(project: Project, network: str, **recipe: Any) -> Model:
    use(project, network, **recipe)
    assert project.materialize(network).success
    return project.record(network, Model)


def test_a_network_that_draws_at_random_is_reproduced_bit_for_bit(project: Project):
    """EfficientNet has dropout and stochastic depth."""
    assert reproduce(trained(project, "efficientnet_b0", seed=1).mlflow_run_id)


def test_models_of_all_networks_stay_within_the_limits(project: Project, capsys: pytest.CaptureFixture[str]):
    """All networks share the limits, and the latest model of each network always stays."""
    old, new = (trained(project, "squeezenet1_1", seed=seed) for seed in (1, 2))
    last = trained(project, "shufflenet_v2_x0_5")
    assert project.materialize("metrics_val", "metrics_test").success
    stay = {Path(one.folder).name for one in (new, last)}
    # The clean-up at the end of a training has removed none of them.
    assert project.models() >= {*stay, Path(old.folder).name}

    project.retention(models=1, days=0).apply(print)
    assert project.models() >= stay
    assert Path(old.folder).name not in project.models()
    assert project.records("squeezenet1_1") | project.records("shufflenet_v2_x0_5") == stay
    assert load_model(Path(new.folder), new.sha256)[1].architecture == "squeezenet1_1"

    # No definitions contain this dataset, so the summary shows the latest model.
    print_summary("tiny")
    assert f"{Path(last.folder).name}/model.safetensors   shufflenet_v2_x0_5" in capsys.readouterr().out


def test_an_interrupted_training_waits_for_its_network(splits, tmp_path: Path):
    """Another network starts from scratch beside its checkpoint; switched back, it resumes."""
    ours, other = (
        TrainingInputs(splits["train"], splits["val"], Recipe(), 32, name).identity() for name in ("resnet34", "vgg11")
    )
    lines: list[str] = []

    def chosen(identity: dict[str, Any]) -> Checkpoints:
        device = choose_device("cpu")
        return checkpoints_to_use(lines.append, lambda: iter(()), tmp_path, identity, device, fresh=False, every=600)

    with chosen(ours) as begun:
        begun.save({"batches": 3})
        begun.wait()
    assert chosen(other).state is None
    assert lines[-1] == "Starting from scratch: model was resnet34 and is vgg11"
    assert chosen(ours).state == {"batches": 3}
    assert begun.training_id in lines[-1]


def test_what_earlier_versions_wrote_is_of_a_resnet34():
    data = {"uri": "x", "version": 1, "fingerprint": "f"}
    common = {"recipe": {"epochs": 1}, "image_size": 32, "train": data, "val": data, "sha256": "0"}
    model = {"mlflow_run_id": "r", "folder": "m", "classes": ["a"], "best_epoch": 1, "val_accuracy": 0.5}
    assert Model.model_validate(common | model).network == "resnet34"
    done = {"code": "4", "weights": "none", "device": "cpu", "precision": "fp32", "environments": [], "history": []}
    training = Training.model_validate(common | done)
    assert training.model == "resnet34"
    # The identity gets no additional key.
    assert set(training.identity) == {"code", "train", "val", "recipe", "image_size", "weights"}
    assert training.model_copy(update={"model": "vgg11"}).identity == training.identity | {"model": "vgg11"}


def test_data_sets_have_networks_of_their_own():
    networks = {"one": "resnet34", "two": "vit_b_16"}
    context = dg.ComponentTree.for_test().load_context
    found = dg.Definitions(resources=default_resources())
    for name, network in networks.items():
        fields = {"name": name, "source": {"sample": "digits"}, "model": network, "image_size": 224}
        component = ImageClassifier(ImageClassifierAttributes.model_validate(fields))
        found = dg.Definitions.merge(found, component.build_defs(context))
    graph = found.resolve_asset_graph()
    models = {dg.AssetKey(list(names)) for names in networks.items()}
    assert {key for key in graph.get_all_asset_keys() if key.path[-1] in NETWORKS} == models
    for name, network in networks.items():
        for split in ("val", "test"):
            parents = graph.get(dg.AssetKey([name, f"metrics_{split}"])).parent_keys
            assert parents == {dg.AssetKey([name, network]), dg.AssetKey([name, f"lance_{split}"])}
        checked = {key.asset_key for key in graph.asset_check_keys if key.asset_key.path[0] == name}
        assert dg.AssetKey([name, network]) in checked
