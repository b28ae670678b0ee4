"""A dataset with an archive as its source, from the download to the Lance datasets."""

import hashlib
import io
import random
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import lance
import pytest

from lance_pipeline.orchestration.records import RawImages, Split
from lance_pipeline.orchestration.runtime.progress import Throttle
from lance_pipeline_tests.image_folders import write_image_folder
from lance_pipeline_tests.orchestration.conftest import Graph, failure_of
from lance_pipeline_tests.sources.archive_server import Server, serving

# Splits and additional files as in CINIC-10.
COUNTS = {
    "train": {"airplane": 5, "cat": 4, "dog": 4},
    "valid": {"airplane": 3, "cat": 2, "dog": 3},
    "test": {"airplane": 2, "cat": 3, "dog": 2},
}
RAW = ("raw_images", "lance_train", "lance_val", "lance_test")


def packed(folder: Path, hostile: str | None = None) -> bytes:
    """The folder's content as .tar.gz, with a member of this name at the end."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, path.name)
        if hostile:
            tar.addfile(tarfile.TarInfo(hostile))
    return buffer.getvalue()


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """The content of the archive."""
    folder = tmp_path / "published"
    write_image_folder(folder, COUNTS)
    (folder / "README.md").write_text("About the images.")
    (folder / "imagenet-contributors.csv").write_text("synset, image\n")
    return folder


@pytest.fixture
def server(published: Path) -> Iterator[Server]:
    with serving(packed(published)) as server:
        yield server


def from_archive(server: Server, checksum: str | None = None) -> dict[str, Any]:
    """The attributes of a dataset from the archive; the checksum defaults to the archive's."""
    checksum = checksum or "md5:" + hashlib.md5(server.content).hexdigest()
    return {"source": {"archive": {"url": server.url, "checksum": checksum}}, "splits": {"val": "valid"}}


def messages(graph: Graph, run: dg.ExecuteInProcessResult) -> str:
    return "\n".join(record.user_message for record in graph.instance.all_logs(run.run_id))


def test_an_archive_becomes_lance_datasets(graph: Graph, server: Server, published: Path, tmp_path: Path):
    graph.attributes |= from_archive(server)
    run = graph.materialize(*RAW)
    assert run.success
    raw = graph.record("raw_images", RawImages)
    assert raw.root == str(tmp_path / "data" / "raw" / "tiny")
    assert raw.classes == ["airplane", "cat", "dog"]
    assert raw.counts == {"train": COUNTS["train"], "val": COUNTS["valid"], "test": COUNTS["test"]}
    for split, folder in (("train", "train"), ("val", "valid"), ("test", "test")):
        record = graph.record(f"lance_{split}", Split)
        table = lance.dataset(record.data.uri, version=record.data.version).to_table()
        assert set(table["split"].to_pylist()) == {split}
        found = sorted((row["label"], row["filename"], row["image"]) for row in table.to_pylist())
        files = (published / folder).glob("*/*.png")
        assert found == sorted((file.parent.name, file.name, file.read_bytes()) for file in files)
    assert f"Unpacked {server.url}, of checksum md5:" in messages(graph, run)


def test_an_archive_is_downloaded_once(graph: Graph, server: Server):
    graph.attributes |= from_archive(server)
    assert graph.materialize("raw_images").success
    assert graph.materialize("raw_images").success
    assert len(server.requested_ranges) == 1


@pytest.mark.parametrize(
    ("sized", "expected"),
    [(True, r"Download: 2 of 3 MB, \d+\.\d MB/s, \S+ left"), (False, r"Download: 2 MB, \S+ MB/s$")],
)
def test_the_download_tells_how_far_it_is(
    sized: bool, expected: str, graph: Graph, server: Server, published: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Throttle, "ready", lambda throttle: True)
    (published / "README.md").write_bytes(random.Random(0).randbytes(3_000_000))
    server.content, server.sized = packed(published), sized
    graph.attributes |= from_archive(server)
    run = graph.materialize("raw_images")
    assert re.search(expected, messages(graph, run), re.MULTILINE)
    records = graph.instance.fetch_observations(dg.AssetKey(["tiny", "raw_images"]), limit=1).records
    assert records[0].asset_observation is not None
    assert records[0].asset_observation.metadata["MB_done"].value == 3


def assert_nothing_is_made(graph: Graph, tmp_path: Path) -> None:
    assert not (tmp_path / "data" / "raw" / "tiny").exists()
    assert not list((tmp_path / "data" / "raw").rglob("*.png"))
    assert graph.instance.get_latest_materialization_event(dg.AssetKey(["tiny", "raw_images"])) is None


def test_another_archive_than_expected_fails_clearly(graph: Graph, server: Server, tmp_path: Path):
    expected = "0" * 32
    graph.attributes |= from_archive(server, f"md5:{expected}")
    message = failure_of(graph.materialize(*RAW))
    assert server.url in message
    assert hashlib.md5(server.content).hexdigest() in message
    assert expected in message
    assert_nothing_is_made(graph, tmp_path)


def test_a_hostile_archive_fails_clearly(graph: Graph, server: Server, published: Path, tmp_path: Path):
    server.content = packed(published, "../escaped.png")
    graph.attributes |= from_archive(server)
    message = failure_of(graph.materialize(*RAW))
    assert "'../escaped.png'" in message
    assert_nothing_is_made(graph, tmp_path)


def test_an_archive_of_too_many_files_names_the_key_to_raise(graph: Graph, server: Server):
    graph.attributes |= from_archive(server)
    graph.attributes["source"]["archive"]["max_members"] = 3
    assert "max_members" in failure_of(graph.materialize("raw_images"))
    graph.attributes["source"]["archive"]["max_members"] = 1000
    assert graph.materialize("raw_images").success
