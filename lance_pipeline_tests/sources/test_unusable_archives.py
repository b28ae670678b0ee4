"""Archives that are not the expected ones, that are damaged, that would write elsewhere, or that are too large."""

import hashlib
import io
import os
import stat
import struct
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lance_pipeline.errors import InputError
from lance_pipeline_tests.sources.archive_server import Server, serving
from lance_pipeline_tests.sources.archives import FORMATS, LIMIT, NOISE, PACKED, add, kept, make, packed, tar_writer


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(PACKED["tar.gz"]) as server:
        yield server


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "raw" / "cinic"


def assert_refused(server: Server, target: Path, reason: str, kept_for_later: int = 0, **limits) -> None:
    """The archive is refused, nothing comes out of it anywhere, and only a sound one is kept."""
    outside = target.parent.parent
    with pytest.raises(InputError, match=rf"the archive http://.*content\S* .*{reason}"):
        make(server.url, target, **limits)
    assert len(kept(target)) == kept_for_later
    assert os.listdir(outside) == ["raw"]


def with_header(name: str, value: str) -> bytes:
    """A tar whose one member has such an extended header."""
    member = tarfile.TarInfo("a/1.png")
    member.pax_headers = {name: value}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", format=tarfile.PAX_FORMAT) as file:
        file.addfile(member)
    return buffer.getvalue()


def wrongly_compressed() -> bytes:
    content = bytearray(packed({"1.png": bytes(1000)}, "zip"))
    start = 30 + len("1.png")
    content[start : start + 3] = b"\xff" * 3
    return bytes(content)


def encrypted() -> bytes:
    content = bytearray(packed({"1.png": b"1"}, "zip"))
    content[6] |= 1
    content[content.find(b"PK\1\2") + 8] |= 1
    return bytes(content)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_name_that_is_too_long_for_the_disk(kind, server, target):
    server.content = packed({"cat/1.png": b"1", f"cat/{'n' * 252}.png": b"2"}, kind)
    told = r"has a member whose name is too long for this disk: cat/n{252}\.png\. Unpack it yourself .*folder: "
    assert_refused(server, target, told)


@pytest.mark.parametrize("name", ["sha256", "md5"])
def test_another_archive_than_expected(name, server, target):
    expected = hashlib.new(name, server.content).hexdigest()
    sound, server.content = server.content, server.content[:-1] + b"?"
    got = hashlib.new(name, server.content).hexdigest()
    with pytest.raises(
        InputError, match=rf"http://.* is not the expected one: its {name} is {got}, expected {expected}"
    ):
        make(server.url, target, f"{name}:{expected}")
    assert kept(target) == []
    server.content = sound
    assert make(server.url, target, f"{name}:{expected}")


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("part", [0.5, 0.99])
def test_a_truncated_archive(form, part, server, target):
    server.content = PACKED[form][: int(len(PACKED[form]) * part)]
    assert_refused(server, target, "cannot be read to its end")


def test_a_tar_cut_off_between_two_members(server, target):
    server.content = packed({"a/1.png": b"1", "a/2.png": b"2"}, "tar")[: 3 * tarfile.BLOCKSIZE]
    assert_refused(server, target, "cannot be read to its end")


@pytest.mark.parametrize("form", FORMATS)
def test_a_damaged_archive(form, server, target):
    content = bytearray(PACKED[form])
    # In tar's own form only a header tells of damage; the others have sums of all they hold.
    place = 0 if form == "tar" else len(content) // 2
    content[place : place + 100] = b"x" * 100
    server.content = bytes(content)
    assert_refused(server, target, "cannot be read to its end")


@pytest.mark.parametrize(
    "content",
    [
        wrongly_compressed(),
        with_header("GNU.sparse.map", "a,b"),
        with_header("path", "a\0b"),
        encrypted(),
    ],
    ids=["deflate", "header", "name", "encrypted"],
)
def test_what_the_libraries_cannot_read(content, server, target):
    server.content = content
    assert_refused(server, target, "cannot be read to its end")


@pytest.mark.parametrize("content", [b"", b"<html>Please log in</html>", b"PK but no more", NOISE])
def test_what_is_no_archive(content, server, target):
    server.content = content
    assert_refused(server, target, r"cannot be read to its end as \.tar, \.tar\.gz, \.tar\.xz or \.zip")


@pytest.mark.parametrize("form", FORMATS)
def test_an_empty_archive(form, server, target):
    server.content = packed({}, form)
    assert_refused(server, target, "is empty")


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", ["../escape", "train/../../escape", "{outside}/escape", ".."])
def test_members_that_would_leave_the_folder(form, name, server, target, tmp_path):
    name = name.format(outside=tmp_path)
    server.content = packed({"a/1.png": b"1"}, form) if form == "zip" else b""
    buffer = io.BytesIO(server.content)
    if form == "zip":
        with zipfile.ZipFile(buffer, "a") as file:
            file.writestr(name, b"escaped")
    else:
        with tar_writer(buffer, form) as file:
            add(file, "a/1.png", b"1")
            add(file, name, b"escaped")
    server.content = buffer.getvalue()
    assert_refused(server, target, f"not safe to unpack: its member '{name}' would leave the folder")


@pytest.mark.parametrize(
    ("kind", "link"),
    [
        (tarfile.SYMTYPE, "../.."),
        (tarfile.SYMTYPE, "1.png"),
        (tarfile.LNKTYPE, "a/1.png"),
        (tarfile.LNKTYPE, "/etc/passwd"),
        (tarfile.CHRTYPE, ""),
        (tarfile.BLKTYPE, ""),
        (tarfile.FIFOTYPE, ""),
        (b"?", ""),
    ],
)
def test_tar_members_that_are_neither_files_nor_folders(kind, link, server, target):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as file:
        add(file, "a/1.png", b"1")
        add(file, "a/odd", kind=kind, link=link)
        add(file, "a/odd/2.png", b"2")
    server.content = buffer.getvalue()
    assert_refused(server, target, "not safe to unpack: its member 'a/odd' is a link, a device or a sparse file")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_zip_members_that_are_neither_files_nor_folders(kind, server, target):
    member = zipfile.ZipInfo("a/odd")
    member.external_attr = (kind | 0o777) << 16
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr(member, "/etc/passwd")
    server.content = buffer.getvalue()
    assert_refused(server, target, "not safe to unpack: its member 'a/odd' is a link, a device")


@pytest.mark.parametrize("version", ["1.0", "0.1"])
def test_a_sparse_file(version, server, target):
    """A few bytes that promise a terabyte of zeros."""
    member = tarfile.TarInfo("a/1.png")
    size = str(1 << 40)
    member.pax_headers = {"GNU.sparse.size": size, "GNU.sparse.realsize": size, "GNU.sparse.map": "0,1"}
    if version == "1.0":
        member.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": size}
    data = b"1\n0\n1\n".ljust(512, b"\0") + b"x"
    member.size = len(data)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", format=tarfile.PAX_FORMAT) as file:
        file.addfile(member, io.BytesIO(data))
    server.content = buffer.getvalue()
    assert_refused(server, target, "a sparse file")


@pytest.mark.parametrize("form", ["tar.gz", "tar.xz", "zip"])
def test_more_bytes_than_allowed(form, server, target):
    server.content = packed({"a/1.png": bytes(6_000_000), "a/2.png": bytes(6_000_000)}, form)
    assert len(server.content) < 50_000
    # Sound for all that is known, so it is kept: the limit may be raised.
    assert_refused(server, target, r"more than 10,000,000 bytes unpacked, the limit `max_bytes`", kept_for_later=1)
    assert make(server.url, target, limit=2 * LIMIT)
    assert len(server.asked) == 1


def test_more_bytes_than_a_zip_says(server, target):
    buffer = bytearray(packed({"1.png": bytes(20_000_000)}, "zip"))
    for place in (buffer.find(b"PK\1\2") + 24, 22):
        assert struct.unpack_from("<I", buffer, place)[0] in (20_000_000, 0)
        struct.pack_into("<I", buffer, place, 1000)
    server.content = bytes(buffer)
    assert_refused(server, target, "cannot be read to its end")


def test_a_header_larger_than_any_file_needs(server, target):
    """It would be read into memory."""
    server.content = with_header("comment", "x" * 1_000_000)
    assert_refused(server, target, "a member whose header")
    server.content = with_header("comment", "x" * 200_000)
    assert make(server.url, target)


@pytest.mark.parametrize("form", FORMATS)
def test_more_members_than_allowed(form, server, target):
    server.content = packed({f"a/{number}.png": b"1" for number in range(9)}, form)
    assert_refused(server, target, "more than 9 files and folders, the limit `max_members`", 1, max_members=9)
    assert make(server.url, target, max_members=10)


@pytest.mark.parametrize("sized", [True, False])
def test_a_larger_download_than_allowed(sized, server, target):
    server.sized = sized
    with pytest.raises(InputError, match="has more than 1,000,000 bytes, the limit `max_bytes`"):
        make(server.url, target, limit=1_000_000)
    here = sum(path.stat().st_size for path in target.parent.rglob("*"))
    assert here < (100_000 if sized else 1_400_000)
