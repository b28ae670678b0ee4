"""Access to objects in a store: missing, refused, unreachable, and replaced while they are read."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from lance_pipeline.errors import InputError
from lance_pipeline.images import LanceSplit, ingest_split
from lance_pipeline.imaging.rejection import RejectedFileError
from lance_pipeline.ingest.quarantine import Limits
from lance_pipeline.sources.listing import list_split_folders
from lance_pipeline.sources.raw_files import FileReader
from lance_pipeline.sources.scanning import FolderScan
from lance_pipeline_tests.ingest.object_places import fill, image, place
from lance_pipeline_tests.storage.test_confined import repeated

# Prints the error of an operation on a server that is down, and the seconds until it was raised.
ASK = """
import json, sys, time
from lance_pipeline.errors import ServiceError
from lance_pipeline.sources.listing import list_split_folders
from lance_pipeline.storage.tables import find_table
began = time.monotonic()
try:
    list_split_folders("s3://bucket/pets", {"train": "train"}) if sys.argv[1] == "list" else find_table("s3://bucket/x")
except ServiceError as error:
    print(json.dumps([str(error), time.monotonic() - began]))
"""


@pytest.fixture(scope="module", autouse=True)
def unreachable() -> Iterator[dict[str, subprocess.Popen[str]]]:
    """Operations on a server that is down, by name; started before the tests because they take long to fail."""
    environment = os.environ | {
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
    }
    processes = {
        name: subprocess.Popen([sys.executable, "-c", ASK, name], stdout=subprocess.PIPE, text=True, env=environment)
        for name in ("list", "open")
    }
    yield processes
    for process in processes.values():
        process.kill()
        process.communicate()


@pytest.mark.usefixtures("store")
def test_missing_folder_split_or_bucket_is_named(remote):
    with pytest.raises(InputError, match=rf"{remote.uri}.*source"):
        list_split_folders(remote.uri, {"train": "train"})
    fill(remote, 2)
    with pytest.raises(InputError, match=r"'val'.*'train'"):
        list_split_folders(remote.uri, {"train": "train", "val": "val"})
    with pytest.raises(InputError, match="'nowhere'"):
        list_split_folders("s3://nowhere/pets", {"train": "train"})
    with pytest.raises(InputError, match="s3://nowhere/"):
        ingest_split(remote.uri, "train", "s3://nowhere/train.lance")


def test_wrong_key_is_an_error_that_names_the_variable(store, remote, tmp_path, monkeypatch):
    fill(remote, 2)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(InputError, match=rf"(?s){remote.uri}.*AWS_SECRET_ACCESS_KEY"):
        list_split_folders(remote.uri, {"train": "train"})
    with pytest.raises(InputError, match=rf"(?s){remote.uri}/train\.lance.*AWS_SECRET_ACCESS_KEY"):
        LanceSplit(f"{remote.uri}/train.lance")
    folder = place(store, "disk", "raw", tmp_path)
    fill(folder, 2)
    with pytest.raises(InputError, match=r"(?s)s3://.*AWS_"):
        ingest_split(folder.uri, "train", f"{remote.uri}/train.lance")
    monkeypatch.undo()
    assert "train.lance" not in str(remote.names())


def test_forbidden_object_is_rejected_and_read_once_allowed(store, tmp_path, monkeypatch):
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


def test_expired_key_is_an_error_and_rejects_no_file(store, tmp_path, monkeypatch):
    shared = place(store, "s3", "shared", tmp_path)
    shared.write("train/cat/one.png", image(1))
    reader = FileReader(shared.uri, "train")
    assert reader.read("cat/one.png", 0, 0).data == image(1)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "expired")
    with pytest.raises(InputError, match=r"cat/one\.png"):
        reader.read("cat/one.png", 0, 0)


def test_replaced_object_has_size_and_bytes_of_one_version(remote):
    """Arrow requests the size first, and then that many bytes of the current object."""
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


def test_object_replaced_since_the_listing_has_its_new_mtime(remote):
    remote.write("train/cat/x.png", image(1))
    (row,) = FolderScan(remote.uri, "train", "train").table().to_pylist()
    reader = FileReader(remote.uri, "train")
    assert reader.read("cat/x.png", row["size"], row["mtime_ns"]).mtime_ns == row["mtime_ns"]
    # Stores give mtimes in whole seconds.
    time.sleep(1.1)
    remote.write("train/cat/x.png", image(2))
    (later,) = FolderScan(remote.uri, "train", "train").table().to_pylist()
    content = reader.read("cat/x.png", row["size"], row["mtime_ns"])
    assert (content.data, content.size) == (image(2), later["size"])
    assert content.mtime_ns // 10**9 == later["mtime_ns"] // 10**9 > row["mtime_ns"] // 10**9


def test_object_that_has_grown_beyond_the_memory_limit_is_rejected(remote):
    remote.write("train/cat/x.png", bytes(5000))
    reader = FileReader(remote.uri, "train")
    with pytest.raises(RejectedFileError, match=r"1000 .*5000"):
        reader.read("cat/x.png", 1000, 0, 3999)
    assert reader.read("cat/x.png", 1000, 0, 4000).size == 5000


@pytest.mark.parametrize("operation", ["list", "open"])
def test_unreachable_server_is_an_error_within_half_a_minute(operation, unreachable):
    output = unreachable[operation].communicate(timeout=120)[0]
    message, seconds = json.loads(output)
    assert "AWS_ENDPOINT_URL" in message
    assert seconds < 35


def test_no_other_variables_are_needed(store, remote):
    """A plain http endpoint works without AWS_ALLOW_HTTP."""
    names = {name for name in os.environ if name.startswith("AWS_")}
    assert names == {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_ENDPOINT_URL"}
    fill(remote, 2)
    assert ingest_split(remote.uri, "train", f"{remote.uri}/train.lance").rows == 2
