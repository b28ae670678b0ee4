"""The members of a tar, one at a time, in bounded memory."""

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
# `xz -9` takes 65 MiB to unpack.
_XZ_MEMORY = 80 << 20
# tarfile keeps those of global headers to the end; most archives have one.
_MOST_GLOBAL_ATTRIBUTES = 100


def tar_members(archive: Path, meter: LimitedReader) -> Iterator[tuple[str, IO[bytes] | None]]:
    """Each member's name and bytes, None for a folder; the bytes are read before the next member is asked for.

    Raises:
        UnusableArchiveError: a member is neither a file nor a folder, or a header is too large.
        TarError: it is damaged; or any other error of the libraries.
    """
    with _decompressed(archive) as plain:
        meter.source = plain
        with meter.header():  # tarfile reads the first one as it opens
            tar = tarfile.open(fileobj=cast("IO[bytes]", meter), mode="r|", tarinfo=_Member)  # noqa: SIM115
        with tar:
            while member := _next(tar, meter):
                regular = member.isreg() and not member.issparse()
                if not regular and not member.isdir():
                    raise UnusableArchiveError(
                        f"is not safe to unpack: its member '{shortened(member.name)}' is a link, a device or a sparse "
                        "file, and only plain files and folders are taken. Use another archive, or tell its publisher."
                    )
                yield member.name, tar.extractfile(member) if regular else None
        # tarfile stops before gzip's checksum.
        while meter.read(_BLOCK_BYTES):
            pass


class _Member(tarfile.TarInfo):
    """A member; where tarfile takes a damaged header for the end, it raises."""

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
    """The next member, of which nothing is kept."""
    with meter.header():
        member = tar.next()
    tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue] - typeshed has only getmembers
    attributes = tar.pax_headers
    if len(attributes) > _MOST_GLOBAL_ATTRIBUTES or sum(map(len, attributes.values())) > LARGEST_HEADER:
        raise UnusableArchiveError(
            "has global headers with more attributes than any tool writes. Use another archive, or tell its publisher."
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
    """A .xz file, decompressed in bounded memory: :func:`lzma.open` takes as much as the file asks for."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "rb")  # noqa: SIM115 - closed by close
        self._stream = self._new_stream()

    def read(self, size: int) -> bytes:
        """At most ``size`` bytes; none at the end."""
        while True:
            if self._stream.eof:
                # Zeros may pad one stream, and another may follow it.
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
