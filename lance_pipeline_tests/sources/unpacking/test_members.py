"""Archives that are damaged or contain false metadata."""

import io
import lzma
import os
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lance_pipeline.errors import InputError
from lance_pipeline.sources.unpacking import zip_members
from lance_pipeline.sources.unpacking.limited_reader import UnusableArchiveError
from lance_pipeline_tests.sources.archives import FORMATS, add, content_of, library_error, make, pack

FILES = {f"{label}/{number}.png": f"{label} {number}".encode() * 50 for label in ("cat", "dog") for number in range(4)}
PACKED = {form: pack(FILES, form) for form in FORMATS}


def unpack(content: bytes, folder: Path) -> dict[str, bytes]:
    (folder / "archive").write_bytes(content)
    make((folder / "archive").as_uri(), folder / "cinic")
    return content_of(folder / "cinic")


def unpack_or_error(content: bytes, folder: Path) -> dict[str, bytes] | InputError:
    try:
        return unpack(content, folder)
    except InputError as error:
        return error


def refusal(content: bytes, folder: Path) -> InputError:
    with pytest.raises(InputError) as caught:
        unpack(content, folder)
    return caught.value


def test_a_damaged_header_is_not_mistaken_for_the_end(tmp_path):
    content = bytearray(PACKED["tar"])
    content[content.index(b"./dog/2.png")] ^= 1
    assert library_error(refusal(bytes(content), tmp_path))


@pytest.mark.parametrize("form", FORMATS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_is_detected_or_harmless(form, data, tmp_path_factory):
    """A tar has no checksums of file contents: these may differ, but nothing else."""
    content = bytearray(PACKED[form])
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.sampled_from([1, 16, 128, 255]))
    folder = tmp_path_factory.mktemp("damaged")
    outcome = unpack_or_error(bytes(content), folder)
    if isinstance(outcome, InputError):
        assert str(outcome).isprintable()
        assert len(str(outcome)) < 1500
        assert not (folder / "cinic").exists()
    else:
        assert len(outcome) == len(FILES)


@pytest.mark.parametrize("form", FORMATS)
def test_truncated_archives(form, tmp_path):
    content = PACKED[form].rstrip(b"\0") if form == "tar" else PACKED[form]
    for number, length in enumerate(range(10, len(content) - 1, max(len(content) // 15, 1))):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert library_error(refusal(content[:length], folder))


def test_a_negative_size(tmp_path):
    member = bytearray(tarfile.TarInfo("a/1.png").tobuf())
    member[124:136] = b"\xff" * 11 + b"\x01"
    member[148:156] = b"%06o\0 " % (256 + sum(member[:148]) + sum(member[156:512]))
    assert isinstance(library_error(refusal(bytes(member) + bytes(10240), tmp_path)), tarfile.ReadError)


def test_many_headers_of_one_member(tmp_path):
    header = tarfile.TarInfo.create_pax_global_header({"comment": "x"})
    content = header * 3000 + tarfile.TarInfo("a/1.png").tobuf() + bytes(1024)
    assert isinstance(refusal(content, tmp_path).__cause__, UnusableArchiveError)


def test_concatenated_xz_streams(tmp_path):
    plain = PACKED["tar"]
    content = lzma.compress(plain[:3000]) + bytes(8) + lzma.compress(plain[3000:]) + bytes(400_000)
    assert unpack(content, tmp_path) == FILES


def zip_end(content: bytes | bytearray) -> int:
    return content.rindex(b"PK\5\6")


@pytest.mark.parametrize("offset", [10, 12, 16], ids=["entries", "size", "start"])
@pytest.mark.parametrize("change", [-1, 1, 0x7FFF])
def test_an_end_record_with_a_wrong_position_or_size(offset, change, tmp_path):
    content = bytearray(PACKED["zip"])
    form = "<H" if offset == 10 else "<I"
    (value,) = struct.unpack_from(form, content, zip_end(content) + offset)
    struct.pack_into(form, content, zip_end(content) + offset, value + change)
    assert library_error(refusal(bytes(content), tmp_path))


@pytest.mark.parametrize(
    ("entries", "size", "start", "place"),
    [(1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (2**40, 0, 0, 0), (0, 2**40, -(2**40), 0)],
)
def test_a_zip64_end_record_with_wrong_values(entries, size, start, place, tmp_path):
    assert unpack(with_zip64_end(), new_folder(tmp_path / "correct")) == FILES
    wrong = with_zip64_end(entries, size, start, place)
    assert library_error(refusal(wrong, new_folder(tmp_path / "wrong"))) or entries > 10**6


def new_folder(path: Path) -> Path:
    path.mkdir()
    return path


def with_zip64_end(entries: int = 0, size: int = 0, start: int = 0, place: int = 0) -> bytes:
    """The zip with a ZIP64 end record whose values are off by these amounts."""
    content = PACKED["zip"]
    end = zip_end(content)
    *_, number, length, begin, _ = struct.unpack_from("<4s4H2LH", content, end)
    numbers = [(value % 2**64) for value in (number + entries, number + entries, length + size, begin + start)]
    return (
        content[:end]
        + struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, *numbers)
        + struct.pack("<4sLQL", b"PK\6\7", 0, end + place, 1)
        + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    )


def test_more_members_than_a_zip_claims(tmp_path):
    """The directory itself counts, because many archives have more members than 16 bits can represent."""
    content = PACKED["zip"]
    wrong = bytearray(content)
    for offset in (8, 10):
        struct.pack_into("<H", wrong, zip_end(content) + offset, 1)
    (tmp_path / "archive").write_bytes(wrong)
    with pytest.raises(InputError, match=r"\b5\b.*`max_members`"):
        make((tmp_path / "archive").as_uri(), tmp_path / "cinic", max_members=5)
    assert isinstance(library_error(refusal(bytes(wrong), tmp_path)), zipfile.BadZipFile)


def test_overlapping_members(tmp_path):
    """Each entry has its own header before shared data, so that names and checksums match."""
    inner = pack({"last": os.urandom(100_000)}, "zip")
    inner = inner[: inner.index(b"PK\1\2")]
    entries, content, position = [], b"", 0
    for number in range(20):
        name, rest = b"%08d" % number, b""
        # Stored: its data are all following headers and the data of the last member.
        header_size = 30 + len(name)
        length = (19 - number) * header_size + len(inner)
        entries.append((name, position, length))
        content += struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 0, 0, 0, 0, length, length, len(name), 0) + name + rest
        position += header_size
    content += inner
    directory = b""
    for name, place, length in entries:
        data = content[place + 30 + len(name) :][:length]
        fields = (20, 20, 0, 0, 0, 0, zlib.crc32(data), length, length, len(name), 0, 0, 0, 0, 0, place)
        directory += struct.pack("<4s6H3L5H2L", b"PK\1\2", *fields) + name
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 20, 20, len(directory), len(content), 0)
    assert "overlap" in str(library_error(refusal(content + directory + end, tmp_path))).lower()


@pytest.mark.parametrize("entries", [1, 3, 7])
def test_a_directory_is_read_in_parts(entries, tmp_path, monkeypatch):
    monkeypatch.setattr(zip_members, "_ENTRIES", entries)
    assert unpack(PACKED["zip"], tmp_path) == FILES


def test_names_and_comments_of_any_length(tmp_path, monkeypatch):
    monkeypatch.setattr(zip_members, "_PART_BYTES", 100_000)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in FILES.items():
            member = zipfile.ZipInfo(name)
            member.comment, member.extra = b"c" * 60_000, struct.pack("<HH", 0x7777, 50_000) + bytes(50_000)
            file.writestr(member, content)
        file.comment = b"PK" * 30_000
    assert unpack(buffer.getvalue(), tmp_path) == FILES


def test_an_archive_on_disk_has_the_same_limit(tmp_path):
    (tmp_path / "archive").write_bytes(pack({"a/1.png": os.urandom(2000)}))
    with pytest.raises(InputError, match=r"\b1,000 .*`max_bytes`"):
        make((tmp_path / "archive").as_uri(), tmp_path / "cinic", limit=1000)


def test_an_empty_file(tmp_path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        add(file, "a/1.png")
        add(file, "a/2.png", b"2")
    assert unpack(buffer.getvalue(), tmp_path) == {"1.png": b"", "2.png": b"2"}
