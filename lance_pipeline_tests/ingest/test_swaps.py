"""What is swapped, grows or vanishes between listing and reading, or during either, is never mixed up."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from lance_pipeline.errors import InputError
from lance_pipeline.images import IngestReport, LanceSplit, ingest_split
from lance_pipeline.imaging.rejection import RejectedFileError
from lance_pipeline.ingest.quarantine import Limits
from lance_pipeline.sources.listing import list_split_folders, list_unsplit_folders
from lance_pipeline.sources.raw_files import FileReader
from lance_pipeline.sources.scanning import FolderScan
from lance_pipeline.storage.confined import ConfinedFolder
from lance_pipeline.storage.tables import open_table
from lance_pipeline_tests.image_folders import class_image, encoded, write_image_folder
from lance_pipeline_tests.storage.test_confined import exchange, repeated

ANY_SHARE = Limits(max_rejected_fraction=1)
SECRET = encoded(class_image(5, np.random.default_rng(5)))
SPLITS = {"train": "train"}


@pytest.fixture
def root(tmp_path) -> Path:
    """Three cats, one of them in a folder of its own, three dogs, and beside the root a folder of the same names."""
    root = Path(write_image_folder(tmp_path / "pets", {"train": {"cat": 3, "dog": 3}}))
    for top in (root / "train", tmp_path / "private"):
        (top / "cat" / "old").mkdir(parents=True)
        (top / "dog").mkdir(exist_ok=True)
    (root / "train/cat/002.png").rename(root / "train/cat/old/002.png")
    for file in (root / "train").rglob("*.png"):
        Path(tmp_path / "private" / file.relative_to(root / "train")).write_bytes(SECRET)
    return root


@pytest.fixture
def target(tmp_path) -> str:
    return str(tmp_path / "lance" / "train.lance")


def listed(root: Path) -> pa.Table:
    return list_split_folders(str(root), SPLITS).files


def ingest(root: Path, target: str, files: pa.Table | None = None) -> IngestReport:
    return ingest_split(str(root), "train", target, files=files, limits=ANY_SHARE)


def reasons(report: IngestReport) -> dict[str, str]:
    rows = open_table(report.rejected_uri, report.rejected_version).to_table().to_pylist()
    return {row["path"]: row["reason"] for row in rows}


def details(report: IngestReport) -> list[str]:
    return open_table(report.rejected_uri, report.rejected_version).to_table()["detail"].to_pylist()


def assert_accounted(root: Path, target: str, report: IngestReport) -> None:
    """Every file is a row with its own bytes or rejected; nothing of the folder outside got in."""
    rows = LanceSplit(target).to_table(["path", "image", "size"]).to_pylist() if report.rows else []
    for row in rows:
        assert row["image"] != SECRET
        assert row["size"] == len(row["image"])
    assert report.rows + report.rejected == report.scanned


@contextmanager
def in_place_of(path: Path, target: str | Path) -> Iterator[None]:
    """A link where something was."""
    kept = path.with_name(f".{path.name}.kept")
    path.rename(kept)
    path.symlink_to(target)
    yield
    path.unlink()
    kept.rename(path)


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize(
    ("swapped", "lost"),
    [
        ("cat/000.png", ["cat/000.png"]),
        ("cat/old", ["cat/old/002.png"]),
        ("cat", ["cat/000.png", "cat/001.png", "cat/old/002.png"]),
    ],
)
def test_what_became_a_link_out_of_the_root_is_rejected(root, target, swapped, lost, absolute):
    files = listed(root)
    outside, path = root.parent / "private" / swapped, root / "train" / swapped
    with in_place_of(path, outside if absolute else os.path.relpath(outside, path.parent)):
        report = ingest(root, target, files)
        assert reasons(report) == dict.fromkeys(lost, "link")
        assert all("leaves the folder" in text and "private" in text for text in details(report))
        assert_accounted(root, target, report)
    after = ingest(root, target, files)
    assert (after.rows, after.rejected) == (6, 0)


def test_a_split_folder_that_became_a_link_out_of_the_root_stops_the_ingest(root, target):
    files = listed(root)
    with in_place_of(root / "train", root.parent / "private"):
        with pytest.raises(InputError, match=r"train is a link that leaves .*private"):
            ingest(root, target, files)
        with pytest.raises(InputError, match=r"train is a link that leaves .*private"):
            listed(root)
    assert ingest(root, target, files).rows == 6


def test_pipes_and_devices_in_the_place_of_files_are_rejected_at_once(root, target):
    files = listed(root)
    for name in ("cat/000.png", "cat/001.png", "dog/000.png"):
        (root / "train" / name).unlink()
    os.mkfifo(root / "train/cat/000.png")
    (root / "train/dog/000.png").mkdir()
    expected = {"cat/000.png": "not_a_file", "cat/001.png": "missing", "dog/000.png": "not_a_file"}
    if os.getuid() == 0:
        os.mknod(root / "train/cat/001.png", 0o20600, os.makedev(1, 5))
        expected["cat/001.png"] = "not_a_file"
    began = time.monotonic()
    assert reasons(ingest(root, target, files)) == expected
    assert time.monotonic() - began < 60


def test_links_to_files_inside_are_followed_however_they_are_written(root, target):
    (root / "train/cat/relative.png").symlink_to("../dog/000.png")
    (root / "train/cat/absolute.png").symlink_to(root / "train/dog/001.png")
    (root / "train/cat/process.png").symlink_to("/proc/self/root/etc/hostname")
    link = root.parent / "mnt"
    link.symlink_to(root)
    for top in (root, link):
        report = ingest(top, target)
        assert reasons(report) == {"cat/process.png": "link"}
        assert report.rows == 8
    # Not a new version: size and time of a link's target are listed in the same way.
    assert ingest(root, target).version == 1


def test_pooled_folders_may_be_links_that_stay_inside(root, target):
    (root / "more").symlink_to("train")
    listing = list_unsplit_folders(str(root), ["more"])
    assert set(listing.files["path"].to_pylist()) >= {"more/cat/000.png", "more/cat/old/002.png"}
    report = ingest_split(str(root), "train", target, folder="", files=listing.files)
    assert (report.rows, report.rejected) == (6, 0)


@pytest.mark.parametrize("swapped", ["cat", "cat/old"])
def test_a_folder_that_is_swapped_while_it_is_listed_never_leads_out(root, swapped):
    for number in range(5):
        (root.parent / "private" / "cat" / "old" / f"secret{number}.png").write_bytes(SECRET)
        (root.parent / "private" / "cat" / f"secret{number}.png").write_bytes(SECRET)
    decoy = root / "decoy"
    decoy.symlink_to(root.parent / "private" / swapped)
    outcomes, deadline = set(), time.monotonic() + 60
    with repeated(lambda: exchange(root / "train" / swapped, decoy)):
        while len(outcomes) < 2 or time.monotonic() < deadline - 58:
            assert time.monotonic() < deadline, outcomes
            try:
                paths = listed(root)["path"].to_pylist()
            except InputError:
                outcomes.add("refused")
                continue
            assert not any("secret" in path for path in paths)
            outcomes.add("linked" if "cat/old" in paths else "listed" if "cat/old/002.png" in paths else "gone")
    assert "listed" in outcomes


def test_a_folder_that_became_a_link_while_it_was_listed_is_not_lost(root, target):
    scan = FolderScan(str(root), "train", "train")
    with ConfinedFolder(str(root), "train") as confined:
        found = scan._walk(confined, "cat")
        next(found)
        with in_place_of(root / "train/cat/old", root.parent / "private/cat/old"):
            assert list(found) == [(["cat/old"], [0], [0])]
            files = pa.table({"path": ["cat/old"], "label": ["cat"], "size": [0], "mtime_ns": [0]})
            report = ingest(root, target, files)
    assert reasons(report) == {"cat/old": "link"}


def test_files_that_vanish_while_they_are_listed_are_left_out(tmp_path):
    (tmp_path / "cat").mkdir()
    for number in range(300):
        (tmp_path / "cat" / f"{number}.png").touch()
    scan = FolderScan(str(tmp_path), "", "train")
    with ConfinedFolder(str(tmp_path)) as confined:
        found = scan._walk(confined, "cat")
        first = next(found)[0]
        gone = min({f"cat/{number}.png" for number in range(300)} - set(first))
        (tmp_path / gone).unlink()
        rest = [path for paths, _, _ in found for path in paths]
    assert len(first) + len(rest) == 299
    assert gone not in rest


def test_paths_longer_than_the_system_takes_are_listed_and_read(root, target):
    here, parts = os.getcwd(), ["train", "cat"]
    os.chdir(root / "train/cat")
    try:
        for _ in range(17):
            os.mkdir("d" * 250)
            os.chdir("d" * 250)
            parts.append("d" * 250)
        shutil.copy(root / "train/dog/000.png", "deep.png")
        os.symlink("/etc/hostname", "away.png")
    finally:
        os.chdir(here)
    try:
        report = ingest(root, target)
        below = "/".join(parts[1:])
        assert report.rows == 7
        assert f"{below}/deep.png" in LanceSplit(target).to_table(["path"])["path"].to_pylist()
        assert reasons(report) == {f"{below}/away.png": "link"}
        assert ingest(root, target).version == report.version
    finally:
        # Python's own way to remove it knows short paths only.
        subprocess.run(["rm", "-r", root / "train/cat"], check=True)


def test_a_file_that_changes_each_time_that_it_is_read_is_given_up(tmp_path):
    """Size, time and bytes are of one moment, or there are none."""
    path = tmp_path / "x.png"
    with path.open("wb") as file:
        file.truncate(64 << 20)

        def grow() -> None:
            file.write(b"x")
            file.flush()

        file.seek(0, os.SEEK_END)
        with FileReader(str(tmp_path), "") as reader:
            with repeated(grow), pytest.raises(RejectedFileError, match=r"\b3\b") as caught:
                reader.read("x.png", 64 << 20, 0)
            assert caught.value.reason == "unreadable"
            status = path.stat()
            assert reader.read("x.png", 64 << 20, 0)[1:] == (status.st_size, status.st_mtime_ns)


def test_a_file_that_has_shrunk_or_grown_since_it_was_listed_has_its_own_size_and_time(root, target):
    files = listed(root)
    for name, data in {"cat/000.png": SECRET, "cat/001.png": SECRET + bytes(50_000)}.items():
        (root / "train" / name).write_bytes(data)
        os.utime(root / "train" / name, (10**9, 10**9))
    ingest(root, target, files)
    rows = {row["path"]: row for row in LanceSplit(target).to_table(["path", "size", "image"]).to_pylist()}
    assert rows["cat/000.png"]["size"] == len(rows["cat/000.png"]["image"]) == len(SECRET)
    assert rows["cat/001.png"]["size"] == len(rows["cat/001.png"]["image"]) == len(SECRET) + 50_000
    assert ingest(root, target).version == 1


def test_a_file_that_has_grown_too_much_since_it_was_listed_waits_for_the_next_listing(root, target):
    """Files are taken together by their listed sizes: more would not fit into memory."""
    files, size = listed(root), 70 << 20
    with (root / "train/cat/000.png").open("r+b") as file:
        file.truncate(size)
    report = ingest(root, target, files)
    assert reasons(report) == {"cat/000.png": "unreadable"}
    assert f"to {size} bytes" in details(report)[0]
    assert (report.rows, ingest(root, target).rejected) == (5, 0)


def test_a_file_is_read_up_to_the_limit_even_if_its_size_is_not_known(tmp_path):
    """Some file systems give the size zero."""
    with FileReader("/proc/self", "") as reader:
        content = reader.read("status", 0, 0)
    assert content.size == len(content.data) > 100
