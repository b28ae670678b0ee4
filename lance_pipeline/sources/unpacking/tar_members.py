"""Iterating over the members of a tar in bounded memory."""

import gzip
import lzma
import tarfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import IO, Self, cast

from lance_pipeline.display import shortened
from lance_pipeline.sources.unpacking.limited_reader import LARGEST_HEADER, LimitedReader, UnusableArchiveError

_BLOCK_BYTES = 1 << 18
_GZIP, _XZ = b"\x1f\x8b", b"\xfd7zXZ\0"
# Unpacking the output of `xz -9` takes 65 MiB.
_XZ_MEMORY = 80 << 20
# tarfile keeps the attributes of global headers until the end; most archives have one.
_MOST_GLOBAL_ATTRIBUTES = 100


def tar_members(archive: Path, meter: LimitedReader) -> Iterator[tuple[str, IO[bytes] | None]]:
    """Each member's name and stream, None for a folder; a stream must be read before the next member is requested.

    Raises:
        UnusableArchiveError: a member is neither a file nor a folder, or a header is too large.
        TarError: the archive is damaged; other errors of the libraries are possible.
    """
    with _decompressed(archive) as plain:
        meter.source = plain
        with meter.header():  # opening reads the first header
            tar = tarfile.open(fileobj=cast("IO[bytes]", meter), mode="r|", tarinfo=_Member)  # noqa: SIM115
        with tar:
            while member := _next(tar, meter):
                regular = member.isreg() and not member.issparse()
                if not regular and not member.isdir():
                    raise UnusableArchiveError(
                        f"is not safe to unpack: its member '{shortened(member.name)}' is a link, a device or a sparse "
                        "file, and only regular files and folders are unpacked. Use another archive, or report it to "
                        "its publisher."
                    )
                yield member.name, tar.extractfile(member) if regular else None
        # Read to the end to verify gzip's checksum, which tarfile does not reach.
        while meter.read(_BLOCK_BYTES):
            pass


class _Member(tarfile.TarInfo):
    """A member that raises for a damaged header, where tarfile would assume the end of the archive."""

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tarfile)
        except _END:
            raise
        except _HEADER_ERROR as error:
            raise _READ_ERROR(f"a header is damaged or missing ({error})") from error


_END = tarfile.EOFHeaderError  # pyright: ignore[reportAttributeAccessIssue] - typeshed has only its base
_HEADER_ERROR, _READ_ERROR = tarfile.HeaderError, tarfile.ReadError


def _next(tar: tarfile.TarFile, meter: LimitedReader) -> tarfile.TarInfo | None:
    """The next member; tarfile's list of members is cleared to bound its memory."""
    with meter.header():
        member = tar.next()
    tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue] - typeshed has only getmembers
    attributes = tar.pax_headers
    if len(attributes) > _MOST_GLOBAL_ATTRIBUTES or sum(map(len, attributes.values())) > LARGEST_HEADER:
        raise UnusableArchiveError(
            "has global headers with too many attributes. Use another archive, or report it to its publisher."
        )
    if member is not None and member.size < 0:
        raise tarfile.ReadError("a member has a negative size")
    return member


def _decompressed(archive: Path) -> AbstractContextManager[IO[bytes]]:
    with open(archive, "rb") as file:
        magic = file.read(6)
    if magic.startswith(_GZIP):
        return cast("IO[bytes]", gzip.open(archive, "rb"))
    return cast("AbstractContextManager[IO[bytes]]", closing(_Xz(archive))) if magic == _XZ else open(archive, "rb")


class _Xz:
    """A .xz file decompressed in bounded memory; :func:`lzma.open` allocates as much as the file requests."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "rb")  # noqa: SIM115 - closed by close
        self._stream = self._new_stream()

    def read(self, size: int) -> bytes:
        """At most ``size`` bytes; none at the end."""
        while True:
            if self._stream.eof:
                # A stream may be followed by zero padding and another stream.
                rest = self._stream.unused_data.lstrip(b"\0")
                while not rest and (block := self._file.read(_BLOCK_BYTES)):
                    rest = block.lstrip(b"\0")
                if not rest:
                    return b""
                self._stream = self._new_stream()
            else:
                rest = self._file.read(_BLOCK_BYTES) if self._stream.needs_input else b""
                if self._stream.needs_input and not rest:
                    raise EOFError("the compressed file ends before the end of its data")
            if data := self._stream.decompress(rest, size):
                return data

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _new_stream(self) -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)
