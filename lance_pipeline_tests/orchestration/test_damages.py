"""Each kind of damage to each store is detected and reported, and the suggested remedy works."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import lance
import pytest

from lance_pipeline.errors import DamagedError, InputError
from lance_pipeline.orchestration.cli.reproduction import training_and_weights
from lance_pipeline.orchestration.cli.summary import print_summary
from lance_pipeline.orchestration.records import Model, RawImages, Record, Split
from lance_pipeline.orchestration.runtime.databases import REPLACE_COMMAND, check_databases
from lance_pipeline.orchestration.tracking.mlflow_tracking import MlflowTracking
from lance_pipeline.orchestration.tracking.model_files import load_or_restore
from lance_pipeline_tests.image_folders import write_image_folder
from lance_pipeline_tests.orchestration.conftest import COUNTS, Graph, failure_of


def _flip(data: bytes) -> bytes:
    at = len(data) * 2 // 5
    return data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes] | None] = {
    "flip": _flip,
    "cut": lambda data: data[: len(data) // 2],
    "zero": lambda data: bytes(len(data)),
    "delete": None,
}
LOGGED_MODEL = "mlflow/artifacts/tiny/models/*/artifacts/artifacts"
# SQLite has no checksums, so it may not notice flips elsewhere.
HEADER = {"header": lambda data: b"X" + data[1:]}


class World:
    """A finished graph whose data are restored for each test."""

    def __init__(self, folder: Path) -> None:
        self.data, self._kept = folder / "data", folder / "kept"
        images = folder / "images"
        write_image_folder(images, COUNTS)
        (images / "test" / "cat" / "broken.png").write_bytes(b"no image")
        (self.data / "dagster").mkdir(parents=True)
        instance = dg.DagsterInstance.from_config(str(self.data / "dagster"))
        self.graph = Graph(instance, images, {"ingest": {"max_rejected_fraction": 0.5}})
        result = self.graph.materialize()
        assert result.success
        self.model = self.graph.record("resnet34", Model)
        self.split = self.graph.record("lance_test", Split)
        shutil.rmtree(self.data / "checkpoints")
        shutil.copytree(self.data, self._kept)

    def restore(self) -> None:
        _forget_mlflow_connections()
        shutil.rmtree(self.data)
        shutil.copytree(self._kept, self.data, copy_function=_copied)

    def damage(self, pattern: str, damage: str) -> Path:
        """Damage the files that match a pattern below the data folder; returns the last of them."""
        paths = sorted(self.data.glob(pattern))
        for path in paths:
            data = path.read_bytes()
            # Not in place: the file may be hard-linked to the saved copy.
            path.unlink()
            if change := (DAMAGES | HEADER)[damage]:
                path.write_bytes(change(data))
        return paths[-1]

    def materialize(self, *assets: str) -> str:
        """The log of a successful run."""
        result = self.graph.materialize(*assets)
        assert result.success, failure_of(result)
        return "\n".join(entry.user_message or "" for entry in self.graph.instance.all_logs(result.run_id))


def _copied(source: str, target: str) -> None:
    # Weights can be linked because nothing changes them in place.
    large = source.endswith(".safetensors")
    (os.link if large else shutil.copy2)(source, target)


def _forget_mlflow_connections() -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    from mlflow.tracking._tracking_service.utils import _tracking_store_registry

    for engine in SqlAlchemyStore._engine_map.values():
        engine.dispose()
    SqlAlchemyStore._engine_map.clear()
    _tracking_store_registry._get_store_with_resolved_uri.cache_clear()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("damages")
        patch.setenv("LANCE_PIPELINE_DATA", str(folder / "data"))
        patch.setenv("DAGSTER_HOME", str(folder / "data" / "dagster"))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield World(folder)


@pytest.fixture
def world(prepared: World) -> World:
    prepared.restore()
    return prepared


each_damage = pytest.mark.parametrize("damage", DAMAGES)
RECORDS: dict[str, type[Record]] = {"raw_images": RawImages, "lance_test": Split, "resnet34": Model}


@each_damage
@pytest.mark.parametrize("asset", RECORDS)
def test_a_damaged_record_is_restored_and_named(world: World, asset: str, damage: str, caplog):
    before = world.graph.record(asset, RECORDS[asset])
    path = world.damage(f"dagster/records/tiny/{asset}/*.json", damage)
    assert world.graph.record(asset, RECORDS[asset]) == before
    assert str(path) in caplog.text
    caplog.clear()
    assert world.graph.record(asset, RECORDS[asset]) == before
    assert caplog.text == ""


@each_damage
def test_a_record_that_is_nowhere_else_is_named(world: World, damage: str, monkeypatch):
    monkeypatch.setattr("lance_pipeline.orchestration.record_io._METADATA", "of an earlier version")
    path = world.damage("dagster/records/tiny/lance_test/*.json", damage)
    with pytest.raises(DamagedError, match="--select 'key:\"tiny/lance_test\"'") as error:
        world.graph.record("lance_test", Split)
    assert str(path) in str(error.value)
    if damage == "cut":
        world.materialize("lance_test")
        assert world.graph.record("lance_test", Split) == world.split


@each_damage
@pytest.mark.parametrize("name", ["model.safetensors", "model.json"])
def test_a_damaged_model_is_restored_and_named(world: World, name: str, damage: str, caplog):
    key, run = dg.AssetKey(["tiny", "resnet34"]), MlflowTracking().existing_run(world.model.mlflow_run_id)
    path = world.damage(f"models/tiny/*/{name}", damage)
    load_or_restore(key, world.model, run)
    assert world.model.folder in caplog.text
    caplog.clear()
    load_or_restore(key, world.model, run)
    assert caplog.text == ""
    copy = world.damage(f"{LOGGED_MODEL}/{name}", damage)
    assert copy.name == name
    world.damage(f"models/tiny/*/{path.name}", damage)
    with pytest.raises(DamagedError, match="--select 'key:\"tiny/resnet34\"'") as error:
        load_or_restore(key, world.model, run)
    assert world.model.folder in str(error.value)


def test_the_log_of_the_run_names_all_that_was_damaged(world: World):
    damaged = [
        world.damage("dagster/records/tiny/resnet34/*.json", "cut"),
        world.damage("lance/tiny_test_seen/step-*.arrow", "cut"),
        world.damage("models/tiny/*/model.safetensors", "cut").parent,
    ]
    tables = [f"lance/tiny_test_{name}.lance" for name in ("rejected", "predictions")]
    expected = [lance.dataset(world.data / table).to_table() for table in tables]
    for table in tables:
        world.damage(f"{table}/_versions/*.manifest", "cut")
    log = world.materialize("lance_test") + world.materialize("metrics_test")
    assert [str(path) for path in damaged if str(path) not in log] == []
    assert [table for table in tables if f"{table}.damaged-1" not in log] == []
    assert [lance.dataset(world.data / table).to_table() for table in tables] == expected
    assert world.graph.record("lance_test", Split).data == world.split.data


@pytest.mark.parametrize("part", ["data/*.lance", "_versions/*.manifest"])
def test_a_damaged_listing_is_named_and_made_again(world: World, part: str):
    world.damage(f"lance/tiny_listing.lance/{part}", "cut")
    failure = failure_of(world.graph.materialize("lance_test"))
    assert str(world.data / "lance" / "tiny_listing.lance") in failure
    assert "raw_images" in failure
    assert "tiny_listing.lance.damaged-1" in world.materialize("raw_images", "lance_test")
    assert world.graph.record("lance_test", Split).data == world.split.data


DATABASE_DAMAGES = ["cut", "zero", "header"]


@pytest.mark.parametrize("damage", [*DATABASE_DAMAGES, "delete"])
def test_a_damaged_database_of_mlflow_is_named_and_replaced(world: World, damage: str, capsys):
    path = world.damage("mlflow/mlflow.db", damage)
    if damage != "delete":
        failure = failure_of(world.graph.materialize("metrics_test"))
        assert str(path) in failure
        assert REPLACE_COMMAND in failure
        assert check_databases(replace=True)
        assert f"{path}.damaged-1" in capsys.readouterr().out
    failure = failure_of(world.graph.materialize("metrics_test"))
    assert world.model.mlflow_run_id in failure
    assert "materialize the model again" in failure
    if damage == "zero":
        world.materialize("resnet34", "metrics_test")


@pytest.mark.parametrize("damage", [*DATABASE_DAMAGES, "delete"])
@pytest.mark.parametrize("name", ["history/runs.db", "history/runs/index.db", "schedules/schedules.db"])
def test_a_damaged_database_of_dagster_is_named_and_replaced(world: World, name: str, damage: str, capsys):
    path = world.damage(f"dagster/{name}", damage)
    if damage != "delete":
        with pytest.raises(DamagedError, match=REPLACE_COMMAND) as error:
            print_summary("tiny")
        assert str(path) in str(error.value)
        assert not check_databases(replace=False)
        assert check_databases(replace=True)
        assert f"{path}.damaged-1" in capsys.readouterr().out
    if "index" not in name:
        print_summary("tiny")
        assert world.model.mlflow_run_id in capsys.readouterr().out
        return
    with pytest.raises(InputError, match="dagster asset list"):
        print_summary("tiny")


@each_damage
def test_a_damaged_record_of_a_training_is_named(world: World, damage: str):
    run = MlflowTracking().existing_run(world.model.mlflow_run_id)
    world.damage(f"mlflow/artifacts/tiny/{run.run_id}/artifacts/training.json", damage)
    with pytest.raises(InputError, match=r"training\.json.*materialize the model again") as error:
        training_and_weights(run)
    assert run.run_id in str(error.value)


@each_damage
def test_a_training_is_repeated_with_the_weights_that_are_intact(world: World, damage: str, capsys):
    run = MlflowTracking().existing_run(world.model.mlflow_run_id)
    world.damage(f"{LOGGED_MODEL}/model.safetensors", damage)
    assert training_and_weights(run)[0].sha256 == world.model.sha256
    assert f"Those in {world.model.folder} are used" in capsys.readouterr().out
    world.damage("models/tiny/*/model.safetensors", damage)
    with pytest.raises(InputError, match="model"):
        training_and_weights(run)
