"""Images and Lance datasets in an object store: the same guarantees as on a disk."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

import lance
import numpy as np
import pyarrow.fs as pafs
import pytest

from lance_pipeline.errors import InputError
from lance_pipeline.images import ImageLoader, LanceSplit, ingest_split
from lance_pipeline.imaging.decoding import decode_rgb
from lance_pipeline.imaging.rejection import RejectedFileError
from lance_pipeline.ingest.ingestion import Watch
from lance_pipeline.ingest.quarantine import Limits
from lance_pipeline.ingest.seen_files import SeenFiles
from lance_pipeline.sources.listing import list_split_folders
from lance_pipeline.sources.raw_files import FileReader
from lance_pipeline.sources.scanning import FolderScan
from lance_pipeline.storage.object_store import storage_options
from lance_pipeline.storage.tables import find_table
from lance_pipeline_tests.image_folders import class_image, encoded
from lance_pipeline_tests.object_store import ObjectStore, object_store
from lance_pipeline_tests.storage.test_confined import repeated

ODD_NAMES = ["a b.png", "grüße 日本.png", "e\u0301.png", "100%.png", "a%20b.png", "new\nline.png", "q?#+&.png"]
LITTER = ["cat/.DS_Store", "cat/Thumbs.db", ".hidden/x.png", "beside the classes.png"]
BAD = "dog/deep/er/bad.png"
WHERE = [("s3", "s3"), ("s3", "disk"), ("disk", "s3")]
# Of a file that is younger nobody can tell whether it will change unseen.
SETTLED_SECONDS = 2.1
MANY = 280
GUEST_READS = ("shared/train/cat", "shared/train/dog/open")
# A line of input starts an ingest; steps of a few files, so that a kill finds some done and some not.
INGEST = """
import sys
from lance_pipeline.ingest import intake
intake.STEP_SECONDS = 0.0
from lance_pipeline.images import ingest_split
print("ready", flush=True)
for _ in sys.stdin:
    report = ingest_split(sys.argv[1], "train", sys.argv[2])
    print(report.rows, report.rejected, flush=True)
"""
# What each operation says of a server that is down, and after how many seconds.
ASK = """
import json, sys, time
from lance_pipeline.errors import InputError
from lance_pipeline.sources.listing import list_split_folders
from lance_pipeline.storage.tables import find_table
began = time.monotonic()
try:
    list_split_folders("s3://bucket/pets", {"train": "train"}) if sys.argv[1] == "list" else find_table("s3://bucket/x")
except InputError as error:
    print(json.dumps([str(error), time.monotonic() - began]))
"""


class Place:
    """A folder on a disk or in an object store, handled without the code under test."""

    def __init__(self, filesystem: pafs.FileSystem, path: str, uri: str) -> None:
        self.filesystem, self.path, self.uri = filesystem, path, uri

    def below(self, name: str) -> "Place":
        return Place(self.filesystem, f"{self.path}/{name}", f"{self.uri}/{name}")

    def write(self, name: str, data: bytes) -> None:
        path = f"{self.path}/{name}"
        if isinstance(self.filesystem, pafs.LocalFileSystem):
            self.filesystem.create_dir(os.path.dirname(path))
        with self.filesystem.open_output_stream(path) as file:
            file.write(data)

    def delete(self, name: str) -> None:
        self.filesystem.delete_file(f"{self.path}/{name}")

    def names(self) -> list[str]:
        selector = pafs.FileSelector(self.path, recursive=True, allow_not_found=True)
        return sorted(
            info.path.removeprefix(f"{self.path}/")
            for info in self.filesystem.get_file_info(selector)
            if info.is_file and "/.ready-" not in info.path
        )

    def files(self) -> dict[str, bytes]:
        contents = {}
        for name in self.names():
            with self.filesystem.open_input_file(f"{self.path}/{name}") as file:
                contents[name] = file.read()
        return contents


def image(seed: int) -> bytes:
    return encoded(class_image(seed, np.random.default_rng(seed), 8 + seed % 7))


def fill(place: Place, count: int) -> dict[str, bytes]:
    """As many images, under two classes; returns them by their paths below the split."""
    images = {f"{('cat', 'dog')[seed % 2]}/{seed:03d}.png": image(seed) for seed in range(count)}
    for name, data in images.items():
        place.write(f"train/{name}", data)
    return images


def fill_oddly(place: Place) -> dict[str, bytes]:
    images = fill(place, 24)
    odd = {f"dog/{name}": image(100 + number) for number, name in enumerate(ODD_NAMES)}
    for name, data in (odd | dict.fromkeys(LITTER, b"litter") | {BAD: b"no image"}).items():
        place.write(f"train/{name}", data)
    return images | odd


def contents(uri: str) -> dict[str, bytes]:
    """The images of a split by the names of their files."""
    table = LanceSplit(uri).to_table(["path", "image"])
    rows = dict(zip(table["path"].to_pylist(), table["image"].to_pylist(), strict=True))
    assert len(rows) == len(table)
    return {path.replace("%25", "%"): data for path, data in rows.items()}


def versions(uri: str) -> int:
    return len(lance.dataset(uri, storage_options=storage_options(uri)).versions())


def start(root: str, target: str, runtime: Path | None = None) -> subprocess.Popen[str]:
    """A process with all imports done, ready for ingests."""
    environment = os.environ | ({"XDG_RUNTIME_DIR": str(runtime)} if runtime else {})
    process = subprocess.Popen(
        [sys.executable, "-c", INGEST, root, target],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert pipe(process.stdout).readline() == "ready\n"
    return process


def pipe(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


def begin(process: subprocess.Popen[str]) -> None:
    pipe(process.stdin).write("go\n")
    pipe(process.stdin).flush()


def wait_for_step(memory: Place) -> None:
    deadline = time.monotonic() + 30
    while not any(name.startswith("step-") for name in memory.names()):
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture(scope="module", autouse=True)
def unreachable() -> Iterator[dict[str, subprocess.Popen[str]]]:
    """Questions to a server that is down: asked at once, for the answers take their time."""
    environment = os.environ | {
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
    }
    processes = {
        what: subprocess.Popen([sys.executable, "-c", ASK, what], stdout=subprocess.PIPE, text=True, env=environment)
        for what in ("list", "open")
    }
    yield processes
    for process in processes.values():
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """A server, and the environment that a user of it has."""
    folder = tmp_path_factory.mktemp("s3")
    with object_store(folder, guest_reads=GUEST_READS) as store, pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
            patch.setenv(name, store.environment[name])
        patch.setenv("AWS_ENDPOINT_URL", store.endpoint)
        yield store


def place(store: ObjectStore, where: str, name: str, folder: Path) -> Place:
    if where == "s3":
        return Place(store.filesystem(), f"{store.bucket}/{name}", store.uri(name))
    return Place(pafs.LocalFileSystem(), f"{folder}/{name}", f"{folder}/{name}")


class Raw:
    """Folders of images that are old enough to be trusted: for each of WHERE its own, and a larger one to read."""

    def __init__(self, store: ObjectStore, folder: Path) -> None:
        self.pets = {where: place(store, where[0], f"pets of {' '.join(where)}", folder) for where in WHERE}
        for one in self.pets.values():
            fill_oddly(one)
        self.many = place(store, "s3", "many", folder)
        self.images = fill(self.many, MANY)
        time.sleep(SETTLED_SECONDS)


@pytest.fixture(scope="module")
def raw(store: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> Raw:
    return Raw(store, tmp_path_factory.mktemp("raw"))


@pytest.fixture
def remote(store: ObjectStore, request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A part of the bucket for one test alone."""
    return place(store, "s3", re.sub(r"\W", "-", request.node.name), tmp_path)


@pytest.mark.parametrize("where", WHERE, ids=" to ".join)
def test_increments(where, raw, store, tmp_path, monkeypatch):
    read: list[str] = []
    real = FileReader.read

    def noted(self: FileReader, path: str, *listed: int):
        read.append(path)
        return real(self, path, *listed)

    monkeypatch.setattr(FileReader, "read", noted)
    pets, lances = raw.pets[where], place(store, where[1], f"lance of {' '.join(where)}", tmp_path)
    target = f"{lances.uri}/train.lance"
    images = {name.removeprefix("train/"): data for name, data in pets.files().items() if not _no_image(name)}
    assert len(images) == 24 + len(ODD_NAMES)

    listing = list_split_folders(pets.uri, {"train": "train"})
    assert len(listing.files) == len(images) + 1
    # A disk tells of the hidden folder, a store of the file that is in it.
    assert {name.partition("/")[0] for name in listing.ignored} == {"cat", ".hidden", "beside the classes.png"}
    assert len(listing.ignored) == len(LITTER)
    first = ingest_split(pets.uri, "train", target)
    assert (first.version, first.rows, first.rejected, first.added) == (1, len(images), 1, len(images))
    assert contents(target) == images
    assert LanceSplit(first.rejected_uri).to_table(["path", "reason"]).to_pylist() == [
        {"path": BAD, "reason": "not_an_image"}
    ]
    assert len(read) == len(images) + 1
    assert any(name.startswith("train_seen/step-") for name in lances.names())
    assert "train_seen/started" not in lances.names()

    read.clear()
    again = ingest_split(pets.uri, "train", target)
    assert (again.version, again.added, again.removed, read) == (1, 0, 0, [])
    assert again.fingerprint == first.fingerprint

    images |= {"cat/000.png": image(900), "dog/new 100%\n.png": image(901)}
    del images[f"dog/{ODD_NAMES[0]}"]
    for name in ("cat/000.png", "dog/new 100%\n.png"):
        pets.write(f"train/{name}", images[name])
    pets.delete(f"train/dog/{ODD_NAMES[0]}")
    changed = ingest_split(pets.uri, "train", target)
    assert sorted(read) == ["cat/000.png", "dog/new 100%25\n.png"]
    assert (changed.version, changed.added, changed.removed) == (2, 2, 2)
    assert contents(target) == images
    assert versions(target) == 2
    assert f"dog/{ODD_NAMES[0]}" in LanceSplit(target, version=1).to_table(["path"])["path"].to_pylist()

    lances.filesystem.delete_dir(f"{lances.path}/train_seen")
    read.clear()
    forgetful = ingest_split(pets.uri, "train", target)
    assert len(read) == len(images) + 1
    assert (forgetful.version, forgetful.added, forgetful.removed) == (2, 0, 0)
    assert forgetful.fingerprint == changed.fingerprint


def _no_image(name: str) -> bool:
    return name.removeprefix("train/") in {*LITTER, BAD}


def test_a_split_is_read_and_loaded_from_the_store(remote):
    images = fill(remote, 10)
    target = f"{remote.uri}/train.lance"
    ingest_split(remote.uri, "train", target)
    split = LanceSplit(target)
    assert (len(split), split.classes) == (10, ["cat", "dog"])
    assert split.size_in_bytes() > sum(map(len, images.values()))
    loader = ImageLoader(target, batch_size=4, image_size=8, training=True, seed=3)
    batches = list(loader)
    assert [len(labels) for _, labels in batches] == [4, 4, 2]
    assert sorted(label for _, labels in batches for label in labels.tolist()) == [0] * 5 + [1] * 5
    plain = next(iter(ImageLoader(target, batch_size=10, image_size=8, training=False, fit="squash")))[0]
    assert plain.shape == (10, 3, 8, 8)
    # The one image of the loader's size is given out as it is.
    at = split.to_table(["path"])["path"].to_pylist().index("cat/000.png")
    assert np.array_equal(plain[at].permute(1, 2, 0).numpy(), np.asarray(decode_rgb(images["cat/000.png"])))


def test_killed_midway_the_next_run_goes_on(raw, remote):
    target = f"{remote.uri}/train.lance"
    process = start(raw.many.uri, target)
    begin(process)
    wait_for_step(remote.below("train_seen"))
    process.send_signal(signal.SIGKILL)
    assert pipe(process.stdout).read() == ""
    assert process.wait() == -signal.SIGKILL
    assert find_table(target) is None
    seen = SeenFiles(f"{remote.uri}/train_seen")
    seen.load()
    assert seen.unfinished
    finished = {
        file["path"]
        for step in seen.steps
        for written in step.written
        for fragment in written["fragments"]
        for file in fragment["files"]
    }
    totals: list[int] = []
    report = ingest_split(raw.many.uri, "train", target, watch=Watch(progress=lambda done, total: totals.append(total)))
    assert totals[-1] == MANY - sum(step.files for step in seen.steps)
    assert (report.version, report.rows, report.added) == (1, MANY, MANY)
    assert contents(target) == raw.images
    used = {file.path for fragment in LanceSplit(target).dataset.get_fragments() for file in fragment.metadata.files}
    assert finished
    assert finished < used
    assert "train_seen/started" not in remote.names()


def test_writers_on_two_hosts(remote, tmp_path):
    """They share no lock: each has a runtime folder of its own, where the locks of remote datasets are."""
    images = fill(remote, 120)
    target = f"{remote.uri}/train.lance"
    folders = [tmp_path / "host0", tmp_path / "host1"]
    for folder in folders:
        folder.mkdir(mode=0o700)
    processes = [start(remote.uri, target, folder) for folder in folders]
    for turn in range(3):
        for process in processes:
            begin(process)
        assert [pipe(process.stdout).readline() for process in processes] == [f"{len(images)} 0\n"] * 2
        assert contents(target) == images
        for number in range(turn, 120, 30):
            name = f"{('cat', 'dog')[number % 2]}/{number:03d}.png"
            images[name] = image(1000 * (turn + 1) + number)
            remote.write(f"train/{name}", images[name])
        gone = f"dog/{2 * turn + 61:03d}.png"
        images.pop(gone)
        remote.delete(f"train/{gone}")
    for process in processes:
        process.communicate(timeout=30)
    assert [process.returncode for process in processes] == [0, 0]
    assert all(list(folder.glob("lance-pipeline/*.lock")) for folder in folders)


def test_a_restart_of_the_server_is_survived(raw, store, remote):
    target = f"{remote.uri}/train.lance"
    process = start(raw.many.uri, target)
    begin(process)
    wait_for_step(remote.below("train_seen"))
    store.kill()
    time.sleep(3)
    assert process.poll() is None
    store.start()
    assert process.communicate(timeout=120)[0] == f"{MANY} 0\n"
    assert process.returncode == 0
    assert contents(target) == raw.images


@pytest.mark.usefixtures("store")
def test_what_is_missing_is_named(remote):
    with pytest.raises(InputError, match=rf"the folder {remote.uri} is missing.*source"):
        list_split_folders(remote.uri, {"train": "train"})
    fill(remote, 2)
    with pytest.raises(InputError, match=r"split 'val' is missing.*holds 'train'"):
        list_split_folders(remote.uri, {"train": "train", "val": "val"})
    with pytest.raises(InputError, match=r"no bucket 'nowhere'.*bucket's name"):
        list_split_folders("s3://nowhere/pets", {"train": "train"})
    with pytest.raises(InputError, match=r"(?s)s3://nowhere/.*bucket"):
        ingest_split(remote.uri, "train", "s3://nowhere/train.lance")


def test_a_wrong_key_is_told(store, remote, tmp_path, monkeypatch):
    fill(remote, 2)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(InputError, match=r"(?s)cannot be listed: .*Check .*AWS_SECRET_ACCESS_KEY"):
        list_split_folders(remote.uri, {"train": "train"})
    with pytest.raises(
        InputError, match=r"(?s)cannot read .* of the Lance dataset s3://.*Check .*AWS_SECRET_ACCESS_KEY"
    ):
        LanceSplit(f"{remote.uri}/train.lance")
    folder = place(store, "disk", "raw", tmp_path)
    fill(folder, 2)
    with pytest.raises(InputError, match=r"(?s)s3://.*AWS_"):
        ingest_split(folder.uri, "train", f"{remote.uri}/train.lance")
    monkeypatch.undo()
    assert "train.lance" not in str(remote.names())


def test_what_may_not_be_read_is_rejected_and_read_when_it_may(store, tmp_path, monkeypatch):
    shared, target = place(store, "s3", "shared", tmp_path), str(tmp_path / "train.lance")
    names = ["cat/one.png", "dog/open.png", "dog/secret.png"]
    for number, name in enumerate(names):
        shared.write(f"train/{name}", image(number))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", store.guest_key)
    report = ingest_split(shared.uri, "train", target, limits=Limits(max_rejected_fraction=0.5))
    assert (report.scanned, report.rows) == (3, 2)
    assert LanceSplit(report.rejected_uri).to_table(["path", "reason"]).to_pylist() == [
        {"path": names[2], "reason": "unreadable"}
    ]
    monkeypatch.undo()
    report = ingest_split(shared.uri, "train", target)
    assert (report.rows, report.rejected, report.added) == (3, 0, 1)


def test_a_key_that_has_expired_is_no_reason_to_reject_a_file(store, tmp_path, monkeypatch):
    shared = place(store, "s3", "shared", tmp_path)
    shared.write("train/cat/one.png", image(1))
    reader = FileReader(shared.uri, "train")
    assert reader.read("cat/one.png", 0, 0).data == image(1)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "expired")
    with pytest.raises(InputError, match=r"cat/one\.png"):
        reader.read("cat/one.png", 0, 0)


def test_an_object_that_is_replaced_has_the_size_and_the_bytes_of_one_moment(remote):
    """Arrow asks for the size first, and then for so many bytes of whatever is there."""
    whole, turn = (b"a" * 50_000, b"b" * 90_000), [0]
    remote.write("train/cat/x.png", whole[0])

    def replace() -> None:
        turn[0] += 1
        remote.write("train/cat/x.png", whole[turn[0] % 2])

    found, reader = [], FileReader(remote.uri, "train")
    with repeated(replace):
        for _ in range(20):
            with suppress(RejectedFileError):
                found.append(reader.read("cat/x.png", 50_000, 0))
    assert found
    assert {content.data for content in found} <= set(whole)
    assert all(content.size == len(content.data) for content in found)


def test_an_object_that_was_replaced_since_it_was_listed_has_its_own_time(remote):
    remote.write("train/cat/x.png", image(1))
    (row,) = FolderScan(remote.uri, "train", "train").table().to_pylist()
    reader = FileReader(remote.uri, "train")
    assert reader.read("cat/x.png", row["size"], row["mtime_ns"]).mtime_ns == row["mtime_ns"]
    # Stores say the seconds alone.
    time.sleep(1.1)
    remote.write("train/cat/x.png", image(2))
    (later,) = FolderScan(remote.uri, "train", "train").table().to_pylist()
    content = reader.read("cat/x.png", row["size"], row["mtime_ns"])
    assert (content.data, content.size) == (image(2), later["size"])
    assert content.mtime_ns // 10**9 == later["mtime_ns"] // 10**9 > row["mtime_ns"] // 10**9


def test_an_object_that_has_grown_is_not_read_beyond_what_there_is_memory_for(remote):
    remote.write("train/cat/x.png", bytes(5000))
    reader = FileReader(remote.uri, "train")
    with pytest.raises(RejectedFileError, match="from 1000 to 5000 bytes"):
        reader.read("cat/x.png", 1000, 0, 3999)
    assert reader.read("cat/x.png", 1000, 0, 4000).size == 5000


@pytest.mark.parametrize(("what", "told"), [("list", "AWS_ENDPOINT_URL"), ("open", "AWS_ENDPOINT_URL")])
def test_a_server_that_is_down_is_told_within_half_a_minute(what, told, unreachable):
    output = unreachable[what].communicate(timeout=120)[0]
    message, seconds = json.loads(output)
    assert told in message
    assert seconds < 35


def test_no_more_than_the_environment_is_needed(store, remote):
    """An address of http is allowed without AWS_ALLOW_HTTP, and nothing is left of the fixtures' own variables."""
    names = {name for name in os.environ if name.startswith("AWS_")}
    assert names == {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_ENDPOINT_URL"}
    fill(remote, 2)
    assert ingest_split(remote.uri, "train", f"{remote.uri}/train.lance").rows == 2
