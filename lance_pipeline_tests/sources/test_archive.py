"""Creating folders from archives."""

import errno
import hashlib
import os
import re
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from lance_pipeline.errors import InputError
from lance_pipeline_tests.sources.archive_server import Server
from lance_pipeline_tests.sources.archives import (
    FILES,
    FORMATS,
    PACKED,
    content_of,
    library_error,
    make,
    pack,
    sha256,
    unfinished_files,
)


def test_an_archive_becomes_a_folder(server, target):
    progress = []
    assert make(server.url, target, sha256(server.content), on_progress=lambda *counts: progress.append(counts))
    assert content_of(target) == FILES
    assert sorted(os.listdir(target.parent)) == [".cinic.lock", "cinic"]
    assert server.requested_ranges == [None]
    size = len(server.content)
    assert progress[0] == (0, size)
    assert progress[-1] == (size, size)
    assert progress == sorted(progress)
    assert len(progress) > 5


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("top", ["", "CINIC-10/"])
def test_each_format_with_and_without_a_top_folder(form, top, server, target):
    server.content = pack({top + name: content for name, content in FILES.items()}, form) if top else PACKED[form]
    assert make(server.url, target, "md5:" + hashlib.md5(server.content).hexdigest().upper())
    assert content_of(target) == FILES


def test_an_archive_of_one_file_becomes_a_folder(server, target):
    server.content = pack({"1.png": b"one"})
    assert make(server.url, target)
    assert content_of(target) == {"1.png": b"one"}


def test_files_have_default_permissions(server, target):
    make(server.url, target)
    new = target.parent / "new"
    new.mkdir()
    (new / "file").touch()
    assert stat.filemode(target.stat().st_mode) == stat.filemode(new.stat().st_mode)
    assert stat.filemode((target / "README.md").stat().st_mode) == stat.filemode((new / "file").stat().st_mode)


def test_an_existing_folder_is_not_changed(server, target):
    target.mkdir(parents=True)
    assert not make(server.url, target)
    assert (server.requested_ranges, os.listdir(target), os.listdir(target.parent)) == ([], [], ["cinic"])


def test_an_archive_on_disk_is_only_read(tmp_path, target):
    file = tmp_path / "of mine.data"
    file.write_bytes(PACKED["zip"])
    assert make(file.as_uri(), target, sha256(file.read_bytes()))
    assert content_of(target) == FILES
    file.write_bytes(b"no archive")
    with pytest.raises(InputError) as caught:
        make(file.as_uri(), tmp_path / "other")
    assert library_error(caught.value)
    assert file.read_bytes() == b"no archive"


def test_no_archive_on_disk(tmp_path, target):
    with pytest.raises(InputError, match=r"/missing\.zip"):
        make((tmp_path / "missing.zip").as_uri(), target)


def test_leftovers_of_a_killed_process_are_removed(server, target):
    half = target.parent / ".cinic.download" / "unpacked"
    half.mkdir(parents=True)
    (half / "stray").touch()
    make(server.url, target)
    assert content_of(target) == FILES


def test_concurrent_calls_download_once(server, target):
    server.seconds_per_block = 0.01
    made = []
    threads = [threading.Thread(target=lambda: made.append(make(server.url, target))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == [False, False, True]
    assert server.requested_ranges == [None]
    assert content_of(target) == FILES
    assert sorted(os.listdir(target.parent)) == [".cinic.lock", "cinic"]


@pytest.mark.parametrize(
    "url",
    [
        "ftp://server/a.zip",
        "/data/a.zip",
        "a.zip",
        "",
        "s3://bucket/a.zip",
        "https:///a.zip",
        "https://a b/c.zip",
        "file://server/a.zip",
    ],
)
def test_malformed_addresses_are_refused(url, target):
    with pytest.raises(InputError, match=re.escape(repr(url))):
        make(url, target)
    assert not target.parent.exists()


@pytest.mark.parametrize(
    "checksum", ["", "6ee4d0c996905fe93221de577967a372", "md5:6ee4", "sha1:" + "0" * 40, "sha256:x"]
)
def test_malformed_checksums_are_refused(checksum, server, target):
    with pytest.raises(InputError, match=f"{checksum!r}.*`sha256:`"):
        make(server.url, target, checksum)
    assert server.requested_ranges == []


def test_unwritable(server, below_a_file):
    with pytest.raises(InputError, match=r"below/cinic.*LANCE_PIPELINE_DATA"):
        make(server.url, below_a_file + "/cinic")
    assert server.requested_ranges == []


def assert_full(server: Server, disk: Path) -> None:
    with pytest.raises(InputError, match=str(disk / "cinic")) as caught:
        make(server.url, disk / "cinic")
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.ENOSPC


def enlarge(disk: Path, small_disk: Callable[[str], Path]) -> None:
    (disk / "other").unlink()
    small_disk("16m")


def test_a_full_disk_while_downloading(server, small_disk):
    disk = small_disk("4m")
    (disk / "other").write_bytes(bytes(3_000_000))
    assert_full(server, disk)
    enlarge(disk, small_disk)
    assert len(unfinished_files(disk / "cinic")) == 1
    assert make(server.url, disk / "cinic", sha256(server.content))
    assert server.sent[1] < 2_500_000


def test_a_full_disk_while_unpacking(server, small_disk):
    disk = small_disk("4m")
    (disk / "other").write_bytes(bytes(900_000))
    assert_full(server, disk)
    enlarge(disk, small_disk)
    # The partly unpacked folder is removed, and the archive is kept.
    assert len(unfinished_files(disk / "cinic")) == 1
    assert make(server.url, disk / "cinic", sha256(server.content))
    assert server.requested_ranges == [None]
