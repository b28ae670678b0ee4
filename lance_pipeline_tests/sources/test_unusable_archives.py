"""Archives that are unexpected, damaged, unsafe or too large."""

import hashlib
import io
import os
import stat
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest

from lance_pipeline.errors import InputError
from lance_pipeline.sources.unpacking.limited_reader import LARGEST_HEADER
from lance_pipeline_tests.sources.archive_server import Server
from lance_pipeline_tests.sources.archives import (
    FORMATS,
    LIMIT,
    NOISE,
    PACKED,
    add,
    library_error,
    make,
    pack,
    tar_writer,
    unfinished_files,
)


def assert_refused(server: Server, target: Path, named: str = "", unfinished: int = 0, **limits) -> InputError:
    """The archive is refused, nothing is written anywhere, and only an archive that is still usable is kept."""
    outside = target.parent.parent
    with pytest.raises(InputError, match=rf"http://.*content\S* .*{named}") as caught:
        make(server.url, target, **limits)
    assert len(unfinished_files(target)) == unfinished
    assert os.listdir(outside) == ["raw"]
    return caught.value


def assert_damaged(server: Server, target: Path) -> None:
    assert library_error(assert_refused(server, target))


def assert_unsafe(server: Server, target: Path, member: str) -> None:
    assert not library_error(assert_refused(server, target, f"'{member}'"))


def with_header(name: str, value: str) -> bytes:
    """A tar with one member that has this extended header."""
    member = tarfile.TarInfo("a/1.png")
    member.pax_headers = {name: value}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", format=tarfile.PAX_FORMAT) as file:
        file.addfile(member)
    return buffer.getvalue()


def wrongly_compressed() -> bytes:
    content = bytearray(pack({"1.png": bytes(1000)}, "zip"))
    start = 30 + len("1.png")
    content[start : start + 3] = b"\xff" * 3
    return bytes(content)


def encrypted() -> bytes:
    content = bytearray(pack({"1.png": b"1"}, "zip"))
    content[6] |= 1
    content[content.find(b"PK\1\2") + 8] |= 1
    return bytes(content)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_name_that_is_too_long_for_the_disk(kind, server, target):
    server.content = pack({"cat/1.png": b"1", f"cat/{'n' * 252}.png": b"2"}, kind)
    assert_refused(server, target, r"cat/n{252}\.png.*source: ")


@pytest.mark.parametrize("name", ["sha256", "md5"])
def test_an_archive_with_a_different_checksum(name, server, target):
    expected = hashlib.new(name, server.content).hexdigest()
    intact, server.content = server.content, server.content[:-1] + b"?"
    got = hashlib.new(name, server.content).hexdigest()
    with pytest.raises(InputError, match=rf"http://.*\b{name}\b.*{got}.*{expected}"):
        make(server.url, target, f"{name}:{expected}")
    assert unfinished_files(target) == []
    server.content = intact
    assert make(server.url, target, f"{name}:{expected}")


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("part", [0.5, 0.99])
def test_a_truncated_archive(form, part, server, target):
    server.content = PACKED[form][: int(len(PACKED[form]) * part)]
    assert_damaged(server, target)


def test_a_tar_cut_off_between_two_members(server, target):
    server.content = pack({"a/1.png": b"1", "a/2.png": b"2"}, "tar")[: 3 * tarfile.BLOCKSIZE]
    assert_damaged(server, target)


@pytest.mark.parametrize("form", FORMATS)
def test_a_damaged_archive(form, server, target):
    content = bytearray(PACKED[form])
    # An uncompressed tar has checksums of its headers only; the other formats have checksums of all data.
    place = 0 if form == "tar" else len(content) // 2
    content[place : place + 100] = b"x" * 100
    server.content = bytes(content)
    assert_damaged(server, target)


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
def test_archives_that_the_libraries_cannot_read(content, server, target):
    server.content = content
    assert_damaged(server, target)


@pytest.mark.parametrize("content", [b"", b"<html>Please log in</html>", b"PK but no more", NOISE])
def test_other_files_are_not_archives(content, server, target):
    server.content = content
    assert_damaged(server, target)


@pytest.mark.parametrize("form", FORMATS)
def test_an_empty_archive(form, server, target):
    server.content = pack({}, form)
    assert not library_error(assert_refused(server, target))


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", ["../escape", "train/../../escape", "{outside}/escape", ".."])
def test_members_that_would_leave_the_folder(form, name, server, target, tmp_path):
    name = name.format(outside=tmp_path)
    server.content = pack({"a/1.png": b"1"}, form) if form == "zip" else b""
    buffer = io.BytesIO(server.content)
    if form == "zip":
        with zipfile.ZipFile(buffer, "a") as file:
            file.writestr(name, b"escaped")
    else:
        with tar_writer(buffer, form) as file:
            add(file, "a/1.png", b"1")
            add(file, name, b"escaped")
    server.content = buffer.getvalue()
    assert_unsafe(server, target, name)


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
    assert_unsafe(server, target, "a/odd")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_zip_members_that_are_neither_files_nor_folders(kind, server, target):
    member = zipfile.ZipInfo("a/odd")
    member.external_attr = (kind | 0o777) << 16
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr(member, "/etc/passwd")
    server.content = buffer.getvalue()
    assert_unsafe(server, target, "a/odd")


@pytest.mark.parametrize("version", ["1.0", "0.1"])
def test_a_sparse_file(version, server, target):
    """A few bytes that stand for a terabyte of zeros."""
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
    assert_unsafe(server, target, r"a/1\.png")


@pytest.mark.parametrize("form", ["tar.gz", "tar.xz", "zip"])
def test_more_bytes_than_allowed(form, server, target):
    server.content = pack({"a/1.png": bytes(6_000_000), "a/2.png": bytes(6_000_000)}, form)
    assert len(server.content) < 50_000
    # Kept, because it is usable once the limit is raised.
    assert_refused(server, target, r"10,000,000 .*`max_bytes`", unfinished=1)
    assert make(server.url, target, limit=2 * LIMIT)
    assert len(server.requested_ranges) == 1


def test_more_bytes_than_a_zip_claims(server, target):
    buffer = bytearray(pack({"1.png": bytes(20_000_000)}, "zip"))
    for place in (buffer.find(b"PK\1\2") + 24, 22):
        assert struct.unpack_from("<I", buffer, place)[0] in (20_000_000, 0)
        struct.pack_into("<I", buffer, place, 1000)
    server.content = bytes(buffer)
    assert_damaged(server, target)


def test_a_too_large_header(server, target):
    """The libraries would read it into memory."""
    server.content = with_header("comment", "x" * 1_000_000)
    assert_refused(server, target, f"{LARGEST_HEADER:,}")
    server.content = with_header("comment", "x" * 200_000)
    assert make(server.url, target)


@pytest.mark.parametrize("form", FORMATS)
def test_more_members_than_allowed(form, server, target):
    server.content = pack({f"a/{number}.png": b"1" for number in range(9)}, form)
    assert_refused(server, target, r"\b9\b.*`max_members`", 1, max_members=9)
    assert make(server.url, target, max_members=10)


@pytest.mark.parametrize("sized", [True, False])
def test_a_larger_download_than_allowed(sized, server, target):
    server.sized = sized
    with pytest.raises(InputError, match=r"1,000,000 .*`max_bytes`"):
        make(server.url, target, limit=1_000_000)
    here = sum(path.stat().st_size for path in target.parent.rglob("*"))
    assert here < (100_000 if sized else 1_400_000)
