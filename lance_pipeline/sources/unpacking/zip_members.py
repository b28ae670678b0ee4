"""Iterating over the members of a zip in bounded memory.

``zipfile`` reads the whole directory into memory, at ten times its size. Here it is given one part at a time: a virtual
file with the archive's bytes up to the directory, then some of its entries, then a matching end record.
"""

import io
import stat
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

from lance_pipeline.display import shortened
from lance_pipeline.sources.unpacking.limited_reader import LimitedReader, UnusableArchiveError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_END_MARK, _LOCATOR_MARK, _END64_MARK, _ENTRY_MARK = b"PK\5\6", b"PK\6\7", b"PK\6\6", b"PK\1\2"
_LONGEST_COMMENT = (1 << 16) - 1
_ENTRY_BYTES = 46
_LENGTHS = struct.Struct("<3H")
_LENGTHS_OFFSET = 28
# Maximum entries and bytes of a part of the directory.
_ENTRIES, _PART_BYTES = 1000, 1 << 20
# zipfile bounds the memory of these methods only: with others, a few bytes may expand to gigabytes at once.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def zip_members(archive: Path, meter: LimitedReader) -> Iterator[tuple[str, IO[bytes] | None]]:
    """Each member's name and stream, None for a folder; a stream must be read before the next member is requested.

    Backslashes in names are treated as separators, because some Windows tools write them.

    Raises:
        InputError: the directory has too many entries.
        UnusableArchiveError: a member is neither a file nor a folder, or is compressed with an uncommon method.
        BadZipFile: the archive is damaged; other errors of the library are possible.
    """
    with open(archive, "rb") as file:
        directory = _find_directory(file)
        meter.require_members(directory.entries)
        compressed = 0
        for part in _parts(file, directory):
            with zipfile.ZipFile(cast("IO[bytes]", io.BufferedReader(_Part(file, directory.start, part)))) as opened:
                for member in opened.infolist():
                    compressed += member.compress_size
                    if compressed > directory.start:
                        raise zipfile.BadZipFile("its members overlap")
                    yield from _open_member(opened, member, meter)


def _open_member(
    file: zipfile.ZipFile, member: zipfile.ZipInfo, meter: LimitedReader
) -> Iterator[tuple[str, IO[bytes] | None]]:
    name = member.filename.replace("\\", "/")
    if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise UnusableArchiveError(
            f"is not safe to unpack: its member '{shortened(name)}' is a link, a device or similar, and only regular "
            "files and folders are unpacked. Use another archive, or report it to its publisher."
        )
    if name.endswith("/"):
        yield name, None
        return
    if member.compress_type not in _METHODS:
        raise UnusableArchiveError(
            f"has a member, '{shortened(name)}', that is compressed with a method other than deflate. Pack it with "
            "deflate, as most tools do, or as .tar.gz."
        )
    with file.open(member) as meter.source:
        yield name, cast("IO[bytes]", meter)


@dataclass(frozen=True)
class _Directory:
    """The position, size and stated number of entries of the directory."""

    start: int
    size: int
    entries: int


def _find_directory(file: IO[bytes]) -> _Directory:
    """Read and check the end record of the archive."""
    length = file.seek(0, io.SEEK_END)
    tail_start = max(length - _END.size - _LONGEST_COMMENT, 0)
    file.seek(tail_start)
    tail = file.read()
    found = tail.rfind(_END_MARK)
    if found < 0 or len(tail) - found < _END.size:
        raise zipfile.BadZipFile("its directory is missing")
    *_, entries, size, start, _ = _END.unpack_from(tail, found)
    end = tail_start + found
    file.seek(max(end - _LOCATOR.size, 0))
    locator = file.read(_LOCATOR.size)
    wide = locator.startswith(_LOCATOR_MARK)
    if wide:
        end -= _LOCATOR.size + _END64.size
        file.seek(max(end, 0))
        record = file.read(_END64.size)
        if end < 0 or not record.startswith(_END64_MARK) or _LOCATOR.unpack(locator)[2] != end:
            raise zipfile.BadZipFile("the end of its directory is damaged")
        *_, entries, size, start = _END64.unpack(record)
    if start + size != end or entries * _ENTRY_BYTES > size:
        raise zipfile.BadZipFile("the position, size or number of entries of its directory is wrong")
    return _Directory(start, size, entries)


def _parts(file: IO[bytes], directory: _Directory) -> Iterator[list[bytes]]:
    """The entries of the directory, some at a time."""
    position, end, found = directory.start, directory.start + directory.size, 0
    while position < end:
        file.seek(position)
        part: list[bytes] = []
        last = min(end, position + _PART_BYTES)
        while position < last and len(part) < _ENTRIES:
            entry = file.read(_ENTRY_BYTES)
            if len(entry) < _ENTRY_BYTES or not entry.startswith(_ENTRY_MARK):
                raise zipfile.BadZipFile("its directory is damaged")
            entry += file.read(sum(_LENGTHS.unpack_from(entry, _LENGTHS_OFFSET)))
            part.append(entry)
            position += len(entry)
        found += len(part)
        yield part
    # Some tools write only the lower 16 bits of more than 65,535 entries.
    if position != end or found % (1 << 16) != directory.entries % (1 << 16):
        raise zipfile.BadZipFile("its directory does not have the stated number of entries")


class _Part(io.RawIOBase):
    """The archive up to its directory, then some entries and an end record."""

    def __init__(self, file: IO[bytes], start: int, entries: list[bytes]) -> None:
        super().__init__()
        self._file, self._start, self._position = file, start, 0
        directory = b"".join(entries)
        number, end = len(entries), start + len(directory)
        self._rest = (
            directory
            + _END64.pack(_END64_MARK, _END64.size - 12, 45, 45, 0, 0, number, number, len(directory), start)
            + _LOCATOR.pack(_LOCATOR_MARK, 0, end, 1)
            + _END.pack(_END_MARK, 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
        )

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._start + len(self._rest)}[whence]
        if origin + offset < 0:
            raise OSError("before the beginning")
        self._position = origin + offset
        return self._position

    def readinto(self, buffer: "WriteableBuffer") -> int:
        buffer = memoryview(buffer)
        if self._position < self._start:
            self._file.seek(self._position)
            data = self._file.read(min(len(buffer), self._start - self._position))
        else:
            offset = self._position - self._start
            data = self._rest[offset : offset + len(buffer)]
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
