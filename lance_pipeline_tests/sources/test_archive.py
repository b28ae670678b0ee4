"""Archives that become folders."""

import hashlib
import os
import re
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lance_pipeline.errors import InputError
from lance_pipeline_tests.sources.archive_server import Server, serving
from lance_pipeline_tests.sources.archives import (
    FILES,
    FORMATS,
    PACKED,
    content_of,
    kept,
    make,
    packed,
    sha256,
)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(PACKED["tar.gz"]) as server:
        yield server


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "raw" / "cinic"


def test_a_folder_comes_of_an_archive(server, target):
    told = []
    assert make(server.url, target, sha256(server.content), on_progress=lambda *progress: told.append(progress))
    assert content_of(target) == FILES
    assert sorted(os.listdir(target.parent)) == [".cinic.lock", "cinic"]
    assert server.asked == [None]
    size = len(server.content)
    assert told[0] == (0, size)
    assert told[-1] == (size, size)
    assert told == sorted(told)
    assert len(told) > 5


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("top", ["", "CINIC-10/"])
def test_each_form_with_and_without_one_folder_at_its_top(form, top, server, target):
    server.content = packed({top + name: content for name, content in FILES.items()}, form) if top else PACKED[form]
    assert make(server.url, target, "md5:" + hashlib.md5(server.content).hexdigest().upper())
    assert content_of(target) == FILES


def test_one_file_is_put_into_a_folder(server, target):
    server.content = packed({"1.png": b"one"})
    assert make(server.url, target)
    assert content_of(target) == {"1.png": b"one"}


def test_files_have_the_rights_of_new_files(server, target):
    make(server.url, target)
    new = target.parent / "new"
    new.mkdir()
    (new / "file").touch()
    assert stat.filemode(target.stat().st_mode) == stat.filemode(new.stat().st_mode)
    assert stat.filemode((target / "README.md").stat().st_mode) == stat.filemode((new / "file").stat().st_mode)


def test_a_folder_that_is_there_is_left_alone(server, target):
    target.mkdir(parents=True)
    assert not make(server.url, target)
    assert (server.asked, os.listdir(target), os.listdir(target.parent)) == ([], [], ["cinic"])


def test_an_archive_on_disk_is_read_where_it_is(tmp_path, target):
    file = tmp_path / "of mine.data"
    file.write_bytes(PACKED["zip"])
    assert make(file.as_uri(), target, sha256(file.read_bytes()))
    assert content_of(target) == FILES
    file.write_bytes(b"no archive")
    with pytest.raises(InputError, match="cannot be read"):
        make(file.as_uri(), tmp_path / "other")
    assert file.read_bytes() == b"no archive"


def test_no_archive_on_disk(tmp_path, target):
    with pytest.raises(InputError, match=r"there is no file .*/missing\.zip"):
        make((tmp_path / "missing.zip").as_uri(), target)


def test_what_a_killed_process_unpacked_is_not_taken(server, target):
    half = target.parent / ".cinic.download" / "unpacked"
    half.mkdir(parents=True)
    (half / "stray").touch()
    make(server.url, target)
    assert content_of(target) == FILES


def test_two_at_once_download_once(server, target):
    server.seconds_per_block = 0.01
    made = []
    threads = [threading.Thread(target=lambda: made.append(make(server.url, target))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == [False, False, True]
    assert server.asked == [None]
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
def test_addresses_that_are_refused(url, target):
    with pytest.raises(InputError, match=re.escape(repr(url)) + ".*Expected https://"):
        make(url, target)
    assert not target.parent.exists()


@pytest.mark.parametrize(
    "checksum", ["", "6ee4d0c996905fe93221de577967a372", "md5:6ee4", "sha1:" + "0" * 40, "sha256:x"]
)
def test_checksums_that_are_refused(checksum, server, target):
    with pytest.raises(InputError, match=f"the archive's checksum is {checksum!r}. Expected `sha256:`"):
        make(server.url, target, checksum)
    assert server.asked == []


def test_unwritable(server, below_a_file):
    with pytest.raises(InputError, match=r"cannot make .*below/cinic from http://.*LANCE_PIPELINE_DATA"):
        make(server.url, below_a_file + "/cinic")
    assert server.asked == []


def enlarge(disk: Path, small_disk: Callable[[str], Path]) -> None:
    (disk / "other").unlink()
    small_disk("16m")


def test_the_disk_is_full_while_downloading(server, small_disk):
    disk = small_disk("4m")
    (disk / "other").write_bytes(bytes(3_000_000))
    with pytest.raises(InputError, match=r"cannot make .* from http://.*No space left on device.*Free space"):
        make(server.url, disk / "cinic")
    enlarge(disk, small_disk)
    assert len(kept(disk / "cinic")) == 1
    assert make(server.url, disk / "cinic", sha256(server.content))
    assert server.sent[1] < 2_500_000


def test_the_disk_is_full_while_unpacking(server, small_disk):
    disk = small_disk("4m")
    (disk / "other").write_bytes(bytes(900_000))
    with pytest.raises(InputError, match=r"cannot make .* from http://.*No space left on device.*Free space"):
        make(server.url, disk / "cinic")
    enlarge(disk, small_disk)
    # The half that was unpacked is gone, the archive waits.
    assert len(kept(disk / "cinic")) == 1
    assert make(server.url, disk / "cinic", sha256(server.content))
    assert server.asked == [None]
