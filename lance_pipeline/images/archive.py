"""Datasets published as an archive: fetched once and unpacked."""

import errno
import gzip
import lzma
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, cast

from lance_pipeline.errors import InputError
from lance_pipeline.images.download import Progress, fetch, require_address, require_checksum_form, require_within
from lance_pipeline.storage.addresses import Address
from lance_pipeline.storage.locking import locked_file
from lance_pipeline.storage.redaction import redact

_BLOCK_BYTES = 1 << 18
_TELL_PUBLISHER = "Use another archive, or tell its publisher."
# What the libraries raise on a damaged archive; of OSError only gzip's own.
_DAMAGED = (
    EOFError,
    RuntimeError,
    ValueError,
    gzip.BadGzipFile,
    lzma.LZMAError,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
)


class _UnusableError(Exception):
    """No later call can unpack this archive; the message goes on after "the archive …"."""


def make_from_archive(
    url: Address | str,
    checksum: str | None,
    folder: str,
    *,
    max_bytes: int,
    max_members: int,
    on_progress: Progress,
) -> bool:
    """Make ``folder`` of what an archive holds unless a folder is there; returns whether it was made.

    The folder appears whole or not at all. An archive with one folder at its top gives that folder's
    content. A download that was cut off, even by the end of the process, waits in
    ``.<name>.download`` beside the folder and the next call goes on with it; it is removed once the
    folder is made, or if it cannot be used. An archive on disk (``file://``) is only read. Of several
    calls at once one makes the folder and the others wait; the empty ``.<name>.lock`` stays.

    Args:
        url: an address, or its text: a .tar, .tar.gz, .tar.xz or .zip archive at an http, https or file address.
        checksum: ``sha256:…`` or ``md5:…`` in hexadecimal digits; ``None`` trusts what comes.
        folder: the folder to make.
        max_bytes: the most that the archive, and also what it unpacks to, may measure.
        max_members: the most files and folders that it may hold.
        on_progress: told the bytes that are here and, if the server says, the bytes in all.

    Raises:
        InputError: the address or the checksum has no known form, the download fails or is not what
            the checksum says, the archive is damaged, too large or not safe to unpack, or the
            folder cannot be written.
    """
    url = Address(url)
    require_address(url)
    if checksum is not None:
        require_checksum_form(checksum)
    target = Path(folder)
    if target.exists():
        return False
    work = target.parent / f".{target.name}.download"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with locked_file(target.parent / f".{target.name}.lock", "LANCE_PIPELINE_DATA"):
            if target.exists():  # another process made it meanwhile
                return False
            work.mkdir(exist_ok=True)
            archive = fetch(url, checksum, work, max_bytes=max_bytes, on_progress=on_progress)
            try:
                _make_from_file(archive, target, work / "unpacked", _Meter(url, max_bytes, max_members))
            except _UnusableError as error:
                if archive.parent == work:
                    archive.unlink()
                raise InputError(f"the archive {url} {error}") from error
            shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        raise InputError(
            f"cannot make {folder} from {url}: {redact(error)}. Free space on the disk or choose a folder that you may "
            f"write to; LANCE_PIPELINE_DATA moves all data elsewhere. The next run goes on with what {work} holds."
        ) from error
    return True


class _Meter:
    """Reads from ``source``, and refuses to go on past the limits; headers may lie, so it counts what comes."""

    def __init__(self, url: Address, max_bytes: int, max_members: int) -> None:
        self.source: IO[bytes]
        self.tail = b""
        self._url, self._max_bytes, self._max_members = url, max_bytes, max_members
        self._bytes = self._members = 0

    def read(self, size: int) -> bytes:
        data = self.source.read(size)
        self._bytes += len(data)
        require_within(self._bytes, self._max_bytes, "bytes unpacked", "max_bytes", self._url)
        self.tail = (self.tail + data)[-tarfile.BLOCKSIZE :]
        return data

    def count_member(self) -> None:
        self._members += 1
        require_within(self._members, self._max_members, "files and folders", "max_members", self._url)


def _make_from_file(archive: Path, target: Path, unpacked: Path, meter: _Meter) -> None:
    """Unpack beside the target, then move what came out into its place in one step."""
    shutil.rmtree(unpacked, ignore_errors=True)  # a process may have been killed while it unpacked
    try:
        unpacked.mkdir()
        _unpack(archive, unpacked, meter)
        entries = list(unpacked.iterdir())
        if not entries:
            raise _UnusableError("is empty. Correct the address.")
        os.rename(entries[0] if len(entries) == 1 and entries[0].is_dir() else unpacked, target)
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)


def _unpack(archive: Path, folder: Path, meter: _Meter) -> None:
    """Write the archive's files below ``folder``, with the rights and times of any new file."""
    with open(archive, "rb") as file:
        magic = file.read(6)
    members = _zip_members(archive, meter) if magic.startswith(b"PK") else _tar_members(archive, magic, meter)
    try:
        for name, stream in members:
            meter.count_member()
            path = folder / _inner_path(name)
            (path if stream is None else path.parent).mkdir(parents=True, exist_ok=True)
            if stream is not None:
                with open(path, "wb") as file:
                    shutil.copyfileobj(stream, file)
    except InputError:
        raise
    except _DAMAGED as error:
        raise _UnusableError(
            f"cannot be read to its end as .tar, .tar.gz, .tar.xz or .zip: {error}. Run this again to fetch it anew; "
            "if it comes out the same, correct the address or ask its publisher."
        ) from error
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise _UnusableError(
            f"has a member whose name is too long for this disk: {os.path.relpath(error.filename, folder)}. Unpack it "
            "yourself under shorter names and set `source: {folder: …}`, or tell its publisher."
        ) from error


def _inner_path(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise _UnusableError(f"is not safe to unpack: its member {name!r} would leave the folder. {_TELL_PUBLISHER}")
    return path


def _not_plain(name: str) -> _UnusableError:
    return _UnusableError(
        f"is not safe to unpack: its member {name!r} is a link, a device or a sparse file, and only plain files and "
        f"folders are taken. {_TELL_PUBLISHER}"
    )


def _tar_members(archive: Path, magic: bytes, meter: _Meter) -> Iterator[tuple[str, IO[bytes] | None]]:
    """Each member's name and bytes; None for a folder."""
    opener = gzip.open if magic.startswith(b"\x1f\x8b") else lzma.open if magic == b"\xfd7zXZ\0" else open
    with opener(archive, "rb") as plain:
        meter.source = cast("IO[bytes]", plain)
        with tarfile.open(fileobj=cast("IO[bytes]", meter), mode="r|") as tar:
            for member in tar:
                regular = member.isreg() and not member.issparse()
                if not regular and not member.isdir():
                    raise _not_plain(member.name)
                yield member.name, tar.extractfile(member) if regular else None
        # tarfile stops before gzip's checksum, and also, without a word, at a header that is cut off.
        while meter.read(_BLOCK_BYTES):
            pass
        if meter.tail.strip(b"\0"):
            raise EOFError("the mark of its end is missing")


def _zip_members(archive: Path, meter: _Meter) -> Iterator[tuple[str, IO[bytes] | None]]:
    """Each member's name and bytes; None for a folder."""
    with zipfile.ZipFile(archive) as file:
        for member in file.infolist():
            if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _not_plain(member.filename)
            if member.is_dir():
                yield member.filename, None
                continue
            with file.open(member) as meter.source:
                yield member.filename, cast("IO[bytes]", meter)
