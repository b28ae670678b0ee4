"""The public functions take every spelling of a place, and mean the same place by each."""

import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from lance_pipeline import images
from lance_pipeline.images import CachePlace, ImageDataset, ImageLoader, LanceSplit, Limits, ingest_split
from lance_pipeline.ingest.ingestion import IngestSource, ingest
from lance_pipeline.ingest.maintenance import keep_version, release_version, removable_bytes, tidy
from lance_pipeline.ingest.repair import repair_from_versions
from lance_pipeline.ingest.seen_files import SeenFiles
from lance_pipeline.sources.layout import layout_of
from lance_pipeline.sources.listing import files_to_ingest, list_split_folders, list_unsplit_folders, store_listing
from lance_pipeline.sources.raw_files import FileReader
from lance_pipeline.sources.split_assignment import FixedSplit
from lance_pipeline.storage.tables import commit_table, find_replaceable, find_table, is_table, open_table
from lance_pipeline_tests.image_folders import write_image_folder
from lance_pipeline_tests.storage.test_tables import SCHEMA, batches

Spelling = Callable[[Path], Any]
SPELLINGS: dict[str, Spelling] = {
    "text": str,
    "path": Path,
    "relative": os.path.relpath,
    "relative path": lambda path: Path(os.path.relpath(path)),
    "home": lambda path: f"~/{path.relative_to(Path.home())}",
    "home path": lambda path: Path(f"~/{path.relative_to(Path.home())}"),
    "file URI": lambda path: path.as_uri(),
    "localhost": lambda path: path.as_uri().replace("file://", "file://localhost"),
    "trailing slash": lambda path: f"{path}/",
    "double dot": lambda path: f"{path.parent}/nowhere/../{path.name}",
}
_AGE = timedelta(days=1)
LOADING: dict[str, Any] = {"batch_size": 4, "image_size": 8, "training": False, "threads": 1}
# What takes a place and needs a stored split; the result does not depend on how the place is written.
READING: dict[str, Callable[[Any], Any]] = {
    "LanceSplit": lambda uri: LanceSplit(uri).uri,
    "ImageLoader": lambda uri: [labels.tolist() for _, labels in ImageLoader(uri, cache=None, **LOADING)],
    "ImageDataset": lambda uri: len(ImageDataset(uri, image_size=8)),
    "open_table": lambda uri: open_table(uri).uri,
    "find_table": lambda uri: getattr(find_table(uri), "uri", None),
    "find_replaceable": lambda uri: getattr(find_replaceable(uri), "uri", None),
    "is_table": is_table,
    "keep_version": lambda uri: keep_version(uri, 1, "mine"),
    "release_version": lambda uri: release_version(uri, "mine"),
    "removable_bytes": lambda uri: removable_bytes(uri, _AGE),
    "repair_from_versions": lambda uri: repair_from_versions(uri).uri,
}
LISTING: dict[str, Callable[[Any], Any]] = {
    "list_split_folders": lambda root: list_split_folders(root, {"train": "train"}).root,
    "list_unsplit_folders": lambda root: list_unsplit_folders(root, ["train"]).root,
    "layout_of": lambda root: layout_of(root).folder,
    "FileReader": lambda root: FileReader(root, "train").base,
}
IN_OTHER_TESTS = {"CachePlace", "ingest_split"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The home folder, which is also the current one; its name must be escaped in a URI."""
    folder = tmp_path_factory.mktemp("a b%20ü")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))
        patch.chdir(folder)
        write_image_folder(folder / "raw", {"train": {"cat": 3, "dog": 3}})
        ingest_split(folder / "raw", "train", folder / "train.lance")
        yield folder


def test_all_public_names_that_take_a_place_are_tested():
    def takes_a_place(name: str) -> bool:
        public = getattr(images, name)
        hints = {**getattr(public, "__annotations__", {}), **getattr(public.__init__, "__annotations__", {})}
        return any("PathLike" in str(hint) for hint in hints.values())

    assert {name for name in images.__all__ if takes_a_place(name)} == (READING.keys() & set(images.__all__)) | {
        *IN_OTHER_TESTS
    }


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("reads", READING)
def test_a_stored_split_is_found_by_every_spelling(home: Path, reads: str, spelling: str):
    read, path = READING[reads], home / "train.lance"
    assert read(SPELLINGS[spelling](path)) == read(str(path))


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("lists", LISTING)
def test_a_folder_is_found_by_every_spelling(home: Path, lists: str, spelling: str):
    read, path = LISTING[lists], home / "raw"
    assert read(SPELLINGS[spelling](path)) == read(str(path))


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_an_ingest_means_the_same_place_by_every_spelling(home: Path, spelling: str):
    write, raw = SPELLINGS[spelling], home / "raw"
    first = ingest_split(write(raw), "train", write(home / f"{spelling}.lance"))
    assert (first.rows, first.uri) == (6, f"{home}/{spelling}.lance")
    # Nothing is read or written again, wherever the ingest believes its own files to be.
    again = ingest_split(raw, "train", home / f"{spelling}.lance")
    assert (again.version, again.rejected_version, again.rejected_uri) == (1, 1, first.rejected_uri)
    names = {path.name for path in home.glob(f"{spelling}*")}
    assert names == {f"{spelling}.lance", f"{spelling}_rejected.lance", f"{spelling}_seen"}
    assert not [path.name for path in home.iterdir() if path.name.startswith(("file:", "~"))]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_an_ingest_of_several_splits_means_the_same_place(home: Path, spelling: str):
    write = SPELLINGS[spelling]
    listing = list_split_folders(write(home / "raw"), {"train": "train"})
    version, _ = store_listing(listing, write(home / "listing.lance"))
    source = IngestSource(
        write(home / "raw"),
        "train",
        lambda: files_to_ingest(listing.files),
        None,
        FixedSplit("train"),
        write(home / "several_seen"),
    )
    report = ingest(source, {"train": write(home / "several.lance")})["train"]
    assert (version, report.version, report.uri) == (1, 1, f"{home}/several.lance")
    SeenFiles(write(home / "several_seen")).load()
    assert tidy(write(home / "several.lance"), _AGE, write(home / "several_seen")).uri == report.uri
    assert commit_table(write(home / "table.lance"), SCHEMA, batches([1]), {}).uri == f"{home}/table.lance"


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_caches_lie_in_the_folder_by_every_spelling(home: Path, spelling: str, monkeypatch: pytest.MonkeyPatch):
    folder = home / "cache"
    place = CachePlace(folder=SPELLINGS[spelling](folder), budget=1 << 20)
    monkeypatch.setenv("LANCE_PIPELINE_CACHE", str(SPELLINGS[spelling](folder)))
    assert place.path == CachePlace().path == str(folder)
    loader = ImageLoader(home / "train.lance", cache=place, **LOADING)
    assert sum(len(labels) for _, labels in loader) == 6
    assert f"{folder}/" in loader.mode


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_no_spelling_of_a_folder_lets_a_link_leave_it(tmp_path: Path, spelling: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    write_image_folder(tmp_path / "secret", {"train": {"cat": 1}}, seed=1)
    write_image_folder(tmp_path / "raw", {"train": {"cat": 3, "dog": 3}})
    (tmp_path / "raw" / "train" / "cat" / "out.png").symlink_to(tmp_path / "secret" / "train" / "cat" / "000.png")
    report = ingest_split(
        SPELLINGS[spelling](tmp_path / "raw"), "train", tmp_path / "x.lance", limits=Limits(max_rejected_fraction=1)
    )
    assert (report.rows, report.reasons) == (6, {"link": 1})
