"""Ingests from and into an object store have the same guarantees as on a disk."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

import lance
import numpy as np
import pytest

from lance_pipeline.images import ImageLoader, LanceSplit, ingest_split
from lance_pipeline.imaging.decoding import decode_rgb
from lance_pipeline.ingest.ingestion import Watch
from lance_pipeline.ingest.seen_files import SeenFiles
from lance_pipeline.sources.listing import list_split_folders
from lance_pipeline.sources.raw_files import FileReader
from lance_pipeline.storage.object_store import storage_options
from lance_pipeline.storage.tables import find_table
from lance_pipeline_tests.ingest.object_places import Place, fill, image, place
from lance_pipeline_tests.object_store import ObjectStore

ODD_NAMES = ["a b.png", "grüße 日本.png", "e\u0301.png", "100%.png", "a%20b.png", "new\nline.png", "q?#+&.png"]
LITTER = ["cat/.DS_Store", "cat/Thumbs.db", ".hidden/x.png", "beside the classes.png"]
BAD = "dog/deep/er/bad.png"
WHERE = [("s3", "s3"), ("s3", "disk"), ("disk", "s3")]
# A younger file could change without a new mtime, so it would be read again.
SETTLED_SECONDS = 2.1
MANY = 280
# Each line of input starts an ingest. Steps have few files, so that a kill leaves some finished and some not.
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


def fill_oddly(place: Place) -> dict[str, bytes]:
    images = fill(place, 24)
    odd = {f"dog/{name}": image(100 + number) for number, name in enumerate(ODD_NAMES)}
    for name, data in (odd | dict.fromkeys(LITTER, b"litter") | {BAD: b"no image"}).items():
        place.write(f"train/{name}", data)
    return images | odd


def contents(uri: str) -> dict[str, bytes]:
    """The images of a split by their paths."""
    table = LanceSplit(uri).to_table(["path", "image"])
    rows = dict(zip(table["path"].to_pylist(), table["image"].to_pylist(), strict=True))
    assert len(rows) == len(table)
    return {path.replace("%25", "%"): data for path, data in rows.items()}


def versions(uri: str) -> int:
    return len(lance.dataset(uri, storage_options=storage_options(uri)).versions())


def start(root: str, target: str, runtime: Path | None = None) -> subprocess.Popen[str]:
    """Start a process for ingests; returns once all imports are done."""
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


class Raw:
    """Folders of images that are old enough to be trusted: one for each of WHERE, and a larger one."""

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


@pytest.mark.parametrize("where", WHERE, ids=" to ".join)
def test_increments(where, raw, store, tmp_path, monkeypatch):
    read: list[str] = []
    real = FileReader.read

    def record_read(self: FileReader, path: str, *listed: int):
        read.append(path)
        return real(self, path, *listed)

    monkeypatch.setattr(FileReader, "read", record_read)
    pets, lances = raw.pets[where], place(store, where[1], f"lance of {' '.join(where)}", tmp_path)
    target = f"{lances.uri}/train.lance"
    images = {name.removeprefix("train/"): data for name, data in pets.files().items() if not _is_ignored_or_bad(name)}
    assert len(images) == 24 + len(ODD_NAMES)

    listing = list_split_folders(pets.uri, {"train": "train"})
    assert len(listing.files) == len(images) + 1
    # A disk reports the hidden folder, a store the file in it.
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
    without_memory = ingest_split(pets.uri, "train", target)
    assert len(read) == len(images) + 1
    assert (without_memory.version, without_memory.added, without_memory.removed) == (2, 0, 0)
    assert without_memory.fingerprint == changed.fingerprint


def _is_ignored_or_bad(name: str) -> bool:
    return name.removeprefix("train/") in {*LITTER, BAD}


def test_split_is_loaded_from_the_store(remote):
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
    # An image that already has the loader's size is unchanged.
    at = split.to_table(["path"])["path"].to_pylist().index("cat/000.png")
    assert np.array_equal(plain[at].permute(1, 2, 0).numpy(), np.asarray(decode_rgb(images["cat/000.png"])))


def test_ingest_resumes_after_a_kill(raw, remote):
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
    """The hosts share no lock: each has its own runtime folder, which holds the locks of remote datasets."""
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


def test_ingest_survives_a_restart_of_the_server(raw, store, remote):
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


def test_every_spelling_of_a_uri_is_the_same_place(remote: Place):
    fill(remote.below("raw"), 6)
    root, uri = f"{remote.uri}/raw", f"{remote.uri}/train.lance"
    first = ingest_split(f"{root}/", "train", f"{uri}/".replace("s3://", "S3://"))
    assert (first.rows, first.uri, LanceSplit(f"{uri}/").uri) == (6, uri, uri)
    again = ingest_split(root, "train", uri)
    assert (again.version, again.rejected_uri) == (1, first.rejected_uri)
    loader = ImageLoader(f"{uri}/", batch_size=4, image_size=8, training=False, cache=None)
    assert sum(len(labels) for _, labels in loader) == 6
