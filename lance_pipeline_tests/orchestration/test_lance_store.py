"""Each kind of file can be stored in a separate folder."""

from pathlib import Path

import dagster as dg
import pytest

from lance_pipeline.orchestration.cli.disk import disk_uses
from lance_pipeline.orchestration.lance_store import LanceStore
from lance_pipeline.orchestration.record_io import RecordIOManager
from lance_pipeline.orchestration.records import Model
from lance_pipeline.orchestration.resources import FOLDER_VARIABLES, default_resources
from lance_pipeline_tests.orchestration.conftest import Graph

FOLDERS = {name: f"disk of {name}" for name in FOLDER_VARIABLES}


@pytest.mark.parametrize("field", FOLDER_VARIABLES)
def test_each_folder_has_a_place_below_the_data_folder(field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LANCE_PIPELINE_DATA", str(tmp_path))
    usual = {"records": "dagster/records", "downloads": "models/downloads"}
    assert _place(default_resources(), field) == tmp_path / usual.get(field, field)
    monkeypatch.setenv(FOLDER_VARIABLES[field], str(tmp_path / "ours"))
    assert _place(default_resources(), field) == tmp_path / "ours"
    monkeypatch.setenv(FOLDER_VARIABLES[field], "~/ours")
    assert _place(default_resources(), field) == Path.home() / "ours"


def _place(resources: dict, field: str) -> Path:
    store: LanceStore = resources["lance_store"]
    if field == "records":
        assert resources["io_manager"].asset_folder(dg.AssetKey(["x"])).parent == store.records_root
    return Path(getattr(store, f"{field}_folder" if field in ("cache", "downloads") else f"{field}_root"))


def test_a_graph_keeps_nothing_elsewhere(graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    ours = {name: tmp_path / folder for name, folder in FOLDERS.items()}
    store = LanceStore.model_validate({name: str(folder) for name, folder in ours.items()})
    resources = default_resources(store)
    assert graph.materialize(**resources).success
    for folder in ("models", "checkpoints", "cache", "reports", "dagster/records"):
        assert not (tmp_path / "data" / folder).exists(), folder
    (model,) = ours["models"].glob("tiny/*/model.safetensors")
    assert list(ours["cache"].glob("*/pixels.u8"))
    assert list(ours["reports"].glob("tiny/resnet34/*.html"))
    records: RecordIOManager = resources["io_manager"]
    assert records.read(graph.instance, dg.AssetKey(["tiny", "resnet34"]), Model).folder == str(model.parent)
    assert list(ours["records"].glob("tiny/metrics_test/*.json"))
    # The checkpoint was here.
    assert (ours["checkpoints"] / "tiny" / ".lock").exists()

    for name, folder in ours.items():
        monkeypatch.setenv(FOLDER_VARIABLES[name], str(folder))
    uses = {use.what: use for use in disk_uses("tiny", "lance_pipeline.definitions")}
    assert uses["models"].where == str(ours["models"] / "tiny")
    assert (uses["models"].bytes or 0) > 1e7
    assert (uses["reports"].bytes or 0) > 0
    assert (uses["records"].bytes or 0) > 0
