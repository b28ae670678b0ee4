"""Unpacking takes little memory, even for malicious archives."""

import gzip
import io
import json
import re
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from lance_pipeline_tests.sources.archives import add

MOST = 30_000_000
MEGABYTE = 1 << 20
# One process unpacks all archives, to import only once. ru_maxrss would include the parent's memory.
_CHILD = """
import json, re, sys
from pathlib import Path
from lance_pipeline.errors import InputError
from lance_pipeline.sources.archive import make_from_archive

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text()).group(1)) * 1024

for path in sys.argv[1:]:
    Path("/proc/self/clear_refs").write_text("5")
    before = peak()
    try:
        make_from_archive(
            "file://" + path, None, path + ".folder", max_bytes=10**10, max_members=10**6, on_progress=lambda *_: None
        )
        outcome = "made"
    except InputError as error:
        outcome = str(error)
    print(json.dumps([outcome, peak() - before]), flush=True)
"""


def header(kind: bytes, size: int, name: str = "h") -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(tarfile.GNU_FORMAT)


def zeros(head: bytes, megabytes: int, tail: bytes = b"") -> bytes:
    """Gzip of ``head``, megabytes of one letter and ``tail``."""
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=1) as file:
        file.write(head)
        for _ in range(megabytes):
            file.write(b"a" * MEGABYTE)
        file.write(tail)
    return buffer.getvalue()


def long_header(kind: bytes, *, second: bool) -> bytes:
    first = header(b"0", 0, "first") if second else b""
    return zeros(first + header(kind, 60 * MEGABYTE), 60, header(b"0", 0, "a/1.png") + bytes(1024))


def many_attributes(number: int, of_each_member: str) -> bytes:
    """One header with this many attributes, or a global header with a new attribute before each of many members."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", format=tarfile.PAX_FORMAT, compresslevel=1) as file:
        if of_each_member:
            for index in range(number):
                attribute = tarfile.TarInfo.create_pax_global_header({f"k{index}": of_each_member})
                file.fileobj.write(attribute)  # type: ignore[union-attr]
                add(file, "a", kind=tarfile.DIRTYPE)
        else:
            member = tarfile.TarInfo("a")
            member.type = tarfile.DIRTYPE
            member.pax_headers = {f"{index:x}": "" for index in range(number)}
            file.addfile(member)
    return buffer.getvalue()


def sparse() -> bytes:
    """An old-format sparse header with endless extensions."""
    first = bytearray(header(b"S", 0, "a/1.png"))
    first[482] = 1
    first[148:156] = b"%06o\0 " % (256 + sum(first[:148]) + sum(first[156:512]))
    return zeros(bytes(first), 40)


def many_folders(number: int) -> bytes:
    entry = header(tarfile.DIRTYPE, 0, "a")
    return gzip.compress(entry * number + bytes(1024), 1)


def many_entries(number: int) -> bytes:
    """A zip that lists the same folder many times."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.mkdir("a")
    content = buffer.getvalue()
    start = content.index(b"PK\1\2")
    entry = content[start : content.index(b"PK\5\6")]
    size = len(entry) * number
    end = start + size
    return (
        content[:start]
        + entry * number
        + struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, number, number, size, start)
        + struct.pack("<4sLQL", b"PK\6\7", 0, end, 1)
        + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    )


def zipped(method: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method, compresslevel=1) as file, file.open("a/1.png", "w") as member:
        for _ in range(60):
            member.write(bytes(MEGABYTE))
    return buffer.getvalue()


def with_large_dictionary() -> bytes:
    """A .tar.xz that requests four gigabytes of memory."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz") as file:
        add(file, "a/1.png", b"1")
    content = bytearray(buffer.getvalue())
    length = (content[12] + 1) * 4
    at = 12 + content.index(b"\x21\x01", 12, 12 + length) - 12 + 2
    content[at] = 40
    checked = content[12 : 12 + length - 4]
    struct.pack_into("<I", content, 12 + length - 4, zlib.crc32(checked))
    return bytes(content)


ARCHIVES: dict[str, tuple[Callable[[], bytes], str]] = {
    # First, because these would fit into memory freed by earlier ones.
    "folders": (lambda: many_folders(40_000), "made"),
    "entries": (lambda: many_entries(70_000), "made"),
    "pax header": (lambda: long_header(b"x", second=False), "header"),
    "pax header of the second member": (lambda: long_header(b"x", second=True), "header"),
    "GNU long name": (lambda: long_header(b"L", second=False), "header"),
    "GNU long link": (lambda: long_header(b"K", second=True), "header"),
    "global header": (lambda: long_header(b"g", second=True), "header"),
    "sparse map": (sparse, "header"),
    "attributes": (lambda: many_attributes(200_000, ""), "header"),
    "most attributes": (lambda: many_attributes(25_000, ""), "made"),
    "global attributes": (lambda: many_attributes(150, "x" * 200_000), "global headers"),
    "large file": (lambda: zipped(zipfile.ZIP_DEFLATED), "made"),
    "bzip2 in a zip": (lambda: zipped(zipfile.ZIP_BZIP2), "deflate"),
    "lzma in a zip": (lambda: zipped(zipfile.ZIP_LZMA), "deflate"),
    "xz dictionary": (with_large_dictionary, "[Mm]emory"),
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, int]]:
    """The outcome for each archive, and the growth of the peak memory in bytes."""
    folder = tmp_path_factory.mktemp("archives")
    paths = [folder / str(number) for number in range(len(ARCHIVES))]
    for path, (make, _) in zip(paths, ARCHIVES.values(), strict=True):
        Path(path).write_bytes(make())
    done = subprocess.run([sys.executable, "-c", _CHILD, *map(str, paths)], capture_output=True, text=True, check=True)
    return dict(zip(ARCHIVES, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("name", ARCHIVES)
def test_memory_is_bounded(name, outcomes):
    outcome, grown = outcomes[name]
    assert re.search(ARCHIVES[name][1], outcome)
    assert grown < MOST
    assert len(outcome) < 1000
