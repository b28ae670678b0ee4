"""The graph of a dataset with images and Lance datasets in an object store."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest
from pyarrow import fs

from lance_pipeline.images import LanceSplit
from lance_pipeline.orchestration import paths
from lance_pipeline.orchestration.records import RawImages, Split
from lance_pipeline_tests.image_folders import write_image_folder
from lance_pipeline_tests.object_store import ObjectStore, object_store
from lance_pipeline_tests.orchestration.conftest import COUNTS, Graph

LANCE = {split: f"lance_{split}" for split in COUNTS}
SOURCE, DATA = "s3://bucket/pets", "s3://bucket/data"


@dataclass
class Remote:
    """The graph, materialized up to the Lance datasets, with its server and the folder of all local files."""

    graph: Graph
    store: ObjectStore
    images: Path
    data: Path

    def names(self, path: str) -> set[str]:
        """The objects in the bucket below this path."""
        found = self.store.filesystem().get_file_info(fs.FileSelector(f"{self.store.bucket}/{path}", recursive=True))
        return {info.path.removeprefix(f"{self.store.bucket}/{path}/") for info in found}


@pytest.fixture(scope="module")
def remote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Remote]:
    folder = tmp_path_factory.mktemp("project")
    with (
        object_store(tmp_path_factory.mktemp("s3")) as store,
        pytest.MonkeyPatch.context() as patch,
        dg.DagsterInstance.ephemeral(str(folder / "instance")) as instance,
    ):
        store.use(patch)
        patch.setenv("LANCE_PIPELINE_DATA", DATA)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setattr(paths, "project_root", lambda: folder)
        patch.chdir(folder)
        write_image_folder(folder / "images", COUNTS)
        store.upload(folder / "images", "pets")
        graph = Graph(instance, Path("unused"), {"source": {"folder": SOURCE}})
        result = graph.materialize("raw_images", *LANCE.values())
        assert result.success
        yield Remote(graph, store, folder / "images", folder / "data")


def test_the_datasets_hold_the_images(remote):
    for split, asset in LANCE.items():
        record = remote.graph.record(asset, Split)
        table = LanceSplit(record.data.uri, record.data.version).to_table(["path", "image"])
        files = (remote.images / split).rglob("*.png")
        expected = {str(file.relative_to(remote.images / split)): file.read_bytes() for file in files}
        assert dict(zip(table["path"].to_pylist(), table["image"].to_pylist(), strict=True)) == expected
        assert record.rows == len(table) == len(expected)


def test_records_and_metadata_name_the_store(remote):
    raw = remote.graph.record("raw_images", RawImages)
    assert (raw.root, raw.listing.uri) == (SOURCE, f"{DATA}/lance/tiny_listing.lance")
    assert remote.graph.metadata("raw_images")["dagster/uri"] == SOURCE
    for split, asset in LANCE.items():
        metadata, uri = remote.graph.metadata(asset), f"{DATA}/lance/tiny_{split}.lance"
        assert metadata["dagster/uri"] == remote.graph.record(asset, Split).data.uri == uri
        assert metadata["quarantine"] == f"{DATA}/lance/tiny_{split}_rejected.lance"
        assert uri in metadata["read_it"]


def test_only_lance_datasets_and_what_was_seen_are_in_the_store(remote):
    tops = {name.split("/")[0] for name in remote.names("data/lance")}
    kinds = {f"tiny_{split}{kind}" for split in COUNTS for kind in (".lance", "_rejected.lance", "_seen")}
    assert tops == kinds | {"tiny_listing.lance"}
    assert {name.split("/")[0] for name in remote.names("data")} == {"lance"}


def test_records_and_lists_stay_local(remote):
    records = {file.parent.name for file in (remote.data / "dagster" / "records" / "tiny").rglob("*.json")}
    assert records == {"raw_images", *LANCE.values()}
    assert not (remote.data / "lance").exists()
    # A URI mistaken for a path would leave a folder named after its scheme.
    assert {entry.name for entry in remote.data.parent.iterdir()} <= {"images", "instance", "data"}
    with (remote.data / "reports" / "tiny" / "val_few_images.csv").open() as file:
        assert [row["label"] for row in csv.DictReader(file)] == ["cat", "dog"]


def test_another_run_changes_nothing(remote):
    before = {asset: remote.graph.record(asset, Split) for asset in LANCE.values()}
    assert remote.graph.materialize("raw_images", *LANCE.values()).success
    assert {asset: remote.graph.record(asset, Split) for asset in LANCE.values()} == before
    assert {remote.graph.metadata(asset)["added"] for asset in LANCE.values()} == {0}
