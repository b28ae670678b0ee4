"""A run's configuration sets no path, address or credential of a resource."""

import json
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from lance_pipeline.orchestration.lance_store import LanceStore
from lance_pipeline.orchestration.resources import default_resources
from lance_pipeline.orchestration.runtime.gpu import GpuResource
from lance_pipeline.orchestration.tracking.mlflow_tracking import MlflowTracking
from lance_pipeline_tests.conftest import Shell

REDIRECTIONS = {
    "mlflow": ("tracking_uri", "ui_url"),
    "lance_store": ("datasets",),
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
    """What a run sees whose configuration sets this."""
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


def test_the_resource_page_shows_no_secret(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://somebody:s3cret@127.0.0.1:9")
    defs = dg.Definitions(assets=[seen], resources=default_resources())
    from dagster._core.remote_representation.external_data import RepositorySnap
    from dagster._serdes import serialize_value

    assert "s3cret" not in serialize_value(RepositorySnap.from_def(defs.get_repository_def()))


def test_the_command_line_refuses_a_redirection(shell: Shell, tmp_path: Path):
    config = json.dumps({"resources": {"lance_store": {"config": {"datasets": str(tmp_path / "planted")}}}})
    command = ("dagster", "asset", "materialize", "-m", "lance_pipeline.definitions")
    finished = shell.run(*command, "--select", 'key:"digits/raw_images"', "--config-json", config)
    assert finished.returncode != 0
    assert 'unexpected config entry "datasets"' in finished.stdout + finished.stderr
    assert not (tmp_path / "planted").exists()
