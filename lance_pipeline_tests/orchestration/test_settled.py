"""A run's configuration cannot set paths, addresses or credentials of a resource."""

import json
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from lance_pipeline.errors import InputError
from lance_pipeline.orchestration.lance_store import LanceStore
from lance_pipeline.orchestration.resources import DEVICE_VARIABLE, default_resources
from lance_pipeline.orchestration.runtime.gpu import GpuResource
from lance_pipeline.orchestration.tracking.mlflow_tracking import MlflowTracking
from lance_pipeline_tests.conftest import Shell

REDIRECTIONS = {
    "mlflow": ("tracking_uri", "ui_url"),
    "gpu": ("exclusive", "threads"),
    "lance_store": ("datasets", "models", "checkpoints", "cache", "downloads", "records", "reports"),
    "io_manager": ("folder",),
}
HARMLESS: dict[str, dict[str, Any]] = {
    "gpu": {"device": "cpu", "precision": "fp32"},
    "mlflow": {"on_unreachable": "continue", "patience": 1.5},
    "lance_store": {"cache_budget": 0},
}


@dg.asset
def seen(
    context: dg.AssetExecutionContext, gpu: GpuResource, mlflow: MlflowTracking, lance_store: LanceStore
) -> dg.MaterializeResult:
    fields = {"gpu": gpu, "mlflow": mlflow, "lance_store": lance_store}
    return dg.MaterializeResult(metadata={name: dict(one) for name, one in fields.items()})


def run(resources: dict[str, Any], **given: Any) -> dict[str, Any]:
    """The values that a run with this configuration sees."""
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(
            [seen], instance=instance, resources=default_resources() | given, run_config={"resources": resources}
        )
        (event,) = result.get_asset_materialization_events()
        return {key: value.value for key, value in event.materialization.metadata.items()}


@pytest.mark.parametrize(
    ("resource", "field"), [(name, field) for name, fields in REDIRECTIONS.items() for field in fields]
)
@pytest.mark.parametrize("value", ["/tmp/planted", {"env": "HOME"}, None], ids=["text", "variable", "null"])
def test_a_launch_that_redirects_a_resource_is_refused(resource: str, field: str, value: Any):
    with pytest.raises(dg.DagsterInvalidConfigError, match=field):
        run({resource: {"config": {field: value}}})


def test_every_other_field_is_settled_too():
    offered = {name: set(fields) for name, fields in HARMLESS.items()}
    for name, resource in default_resources().items():
        schema = resource.get_resource_definition().config_schema.config_type
        assert set(schema.fields) == offered.get(name, set()), name


def test_harmless_values_are_a_runs_own():
    found = run(
        {name: {"config": values} for name, values in HARMLESS.items()}, mlflow=MlflowTracking(ui_url="http://ui")
    )
    for name, values in HARMLESS.items():
        assert found[name].items() >= values.items()
    assert found["mlflow"]["ui_url"] == "http://ui"


@pytest.mark.parametrize(("resource", "field"), [(name, field) for name, one in HARMLESS.items() for field in one])
def test_no_environment_variable_is_read_for_a_launch(resource: str, field: str):
    with pytest.raises(dg.DagsterInvalidConfigError, match=field):
        run({resource: {"config": {field: {"env": "HOME"}}}})


def test_what_is_settled_is_used(tmp_path: Path):
    found = run({}, lance_store=LanceStore(datasets=str(tmp_path)), gpu=GpuResource(device="cuda:7"))
    assert found["lance_store"]["datasets"] == str(tmp_path)
    assert found["gpu"]["device"] == "cuda:7"


def pages(resources: dict[str, Any]) -> tuple[str, dict[str, str]]:
    """Everything that the code location sends to the UI, and the description of each resource."""
    from dagster._core.remote_representation.external_data import RepositorySnap
    from dagster._serdes import serialize_value

    defs = dg.Definitions(assets=[seen], resources=resources)
    snapshot = RepositorySnap.from_def(defs.get_repository_def())
    descriptions = {one.name: one.resource_snapshot.description or "" for one in snapshot.resources or []}
    return serialize_value(snapshot), descriptions


def test_the_resource_page_shows_the_variable_and_no_secret(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://somebody:s3cret@127.0.0.1:9")
    monkeypatch.setenv(DEVICE_VARIABLE, "cuda:77")
    text, descriptions = pages(default_resources())
    assert "s3cret" not in text
    assert "127.0.0.1:9" not in text
    assert "cuda:77" not in text
    assert "`tracking_uri`: from the environment variable MLFLOW_TRACKING_URI" in descriptions["mlflow"]
    assert f"`device`: from the environment variable {DEVICE_VARIABLE}" in descriptions["gpu"]
    assert "environment variable" not in descriptions["lance_store"]


@dg.asset
def places(lance_store: LanceStore, mlflow: MlflowTracking, gpu: GpuResource) -> dg.MaterializeResult:
    found = {"models": str(lance_store.models_root), "budget": lance_store.cache_budget, "device": gpu.device}
    return dg.MaterializeResult(metadata=found | {"address": mlflow.address.full(), "shared": str(gpu.exclusive)})


def test_a_variable_is_read_where_the_value_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    resources = {
        "lance_store": LanceStore(models=dg.EnvVar("OUR_MODELS"), cache_budget=dg.EnvVar.int("OUR_BYTES")),
        "mlflow": MlflowTracking(tracking_uri=dg.EnvVar("OUR_SERVER")),
        "gpu": GpuResource(device=dg.EnvVar("OUR_DEVICE"), exclusive=dg.EnvVar("OUR_CHOICE")),  # pyright: ignore[reportArgumentType]
    }
    text, _ = pages(default_resources() | resources)
    values = {
        "OUR_MODELS": str(tmp_path / "models"),
        "OUR_BYTES": "17",
        "OUR_SERVER": "http://somebody:s3cret@127.0.0.1:9",
        "OUR_DEVICE": "cuda:77",
        "OUR_CHOICE": "false",
    }
    # Set them only after creating the definitions.
    for name, value in values.items():
        monkeypatch.setenv(name, value)
        assert name in text
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize([places], instance=instance, resources=resources)
        (event,) = result.get_asset_materialization_events()
        found = {key: one.value for key, one in event.materialization.metadata.items()}
        own = {"resources": {"gpu": {"config": {"device": "mps"}}}}
        result = dg.materialize([places], instance=instance, resources=resources, run_config=own)
        (event,) = result.get_asset_materialization_events()
    assert found == {
        "models": values["OUR_MODELS"],
        "budget": 17,
        "device": "cuda:77",
        "address": values["OUR_SERVER"],
        "shared": "False",
    }
    assert event.materialization.metadata["device"].value == "mps"


def test_a_variable_that_is_not_set_is_named():
    store = LanceStore(models=dg.EnvVar("NOBODY_SETS_THIS"))
    with pytest.raises(InputError, match=r"NOBODY_SETS_THIS.*`models` of LanceStore"):
        store.model_folder("digits", "run")


@pytest.mark.parametrize("field", ["models", "checkpoints", "cache", "downloads", "records", "reports"])
def test_only_datasets_may_be_in_an_object_store(field: str, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ValueError, match=field):
        LanceStore.model_validate({field: "s3://bucket/ours"})


def test_the_command_line_refuses_a_redirection(shell: Shell, tmp_path: Path):
    config = json.dumps({"resources": {"lance_store": {"config": {"datasets": str(tmp_path / "planted")}}}})
    command = ("dagster", "asset", "materialize", "-m", "lance_pipeline.definitions")
    finished = shell.run(*command, "--select", 'key:"digits/raw_images"', "--config-json", config)
    assert finished.returncode != 0
    assert 'unexpected config entry "datasets"' in finished.stdout + finished.stderr
    assert not (tmp_path / "planted").exists()
