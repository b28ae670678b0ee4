"""Datasets published as an archive: downloaded once, checked and unpacked."""

import gzip
import hashlib
import lzma
import os
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, cast
from urllib.parse import urlsplit
from urllib.request import url2pathname

import requests
from filelock import FileLock
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError, ProtocolError
from urllib3.util import Retry

from lance_pipeline.errors import InputError

# Waits 0, 2, 4 and 8 seconds. A server's wish for more is no reason to stand still: a later run goes on.
_RETRY = Retry(
    total=4,
    backoff_factor=1,
    status_forcelist=(429, 500, 502, 503, 504),
    raise_on_status=False,
    respect_retry_after_header=False,
)
_CONNECT_AND_READ_SECONDS = (10, 60)
_CONNECTIONS = 10
_BLOCK_BYTES = 1 << 18
_NOTHING_LEFT = 416
_TELL_PUBLISHER = "Use another archive, or tell its publisher."
_URL = re.compile(r"https?://[^\s/?#]\S*|file:///.+")
_CHECKSUM = re.compile(r"sha256:[0-9a-f]{64}|md5:[0-9a-f]{32}")
_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)")
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
# Told the bytes that are here and, if the server says, the bytes in all.
Progress = Callable[[int, int | None], None]


class _UnusableError(Exception):
    """No later call can unpack this archive; the message goes on after "the archive …"."""


def make_from_archive(
    url: str,
    checksum: str | None,
    folder: str,
    *,
    max_bytes: int,
    max_members: int = 5_000_000,
    on_progress: Progress,
) -> bool:
    """Make ``folder`` of what an archive holds unless a folder is there; returns whether it was made.

    The folder appears whole or not at all. An archive with one folder at its top gives that folder's
    content. A download that was cut off, even by the end of the process, waits in
    ``.<name>.download`` beside the folder and the next call goes on with it; it is removed once the
    folder is made, or if it cannot be used. An archive on disk (``file://``) is only read. Of several
    calls at once one makes the folder and the others wait; the empty ``.<name>.lock`` stays.

    Args:
        url: a .tar, .tar.gz, .tar.xz or .zip archive at an http, https or file address.
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
    _require_forms(url, checksum)
    target = Path(folder)
    if target.exists():
        return False
    work = target.parent / f".{target.name}.download"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.parent / f".{target.name}.lock"):
            if target.exists():  # another process made it meanwhile
                return False
            work.mkdir(exist_ok=True)
            archive = _local_archive(url) or _downloaded_archive(url, work, max_bytes, on_progress)
            try:
                _require_checksum(archive, checksum)
                _make_from_file(archive, target, work / "unpacked", _Meter(url, max_bytes, max_members))
            except _UnusableError as error:
                if archive.parent == work:
                    archive.unlink()
                raise InputError(f"the archive {url} {error}") from error
            shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        raise InputError(
            f"cannot make {folder} from {url}: {error}. Free space on the disk or choose a folder that you may write "
            f"to; LANCE_PIPELINE_DATA moves all data elsewhere. The next run goes on with what {work} holds."
        ) from error
    return True


def _require_forms(url: str, checksum: str | None) -> None:
    if not _URL.fullmatch(url):
        raise InputError(
            f"the archive's address is {url!r}. Expected https://<server>/<path>, http://<server>/<path> or "
            "file:///<path> of a .tar, .tar.gz, .tar.xz or .zip archive."
        )
    if checksum is not None and not _CHECKSUM.fullmatch(checksum.lower()):
        raise InputError(
            f"the checksum of {url} is {checksum!r}. Expected `sha256:` and 64 hexadecimal digits, or `md5:` and 32, "
            "as the archive's publisher or `sha256sum <file>` tells them."
        )


def _local_archive(url: str) -> Path | None:
    """The file of a ``file://`` address."""
    if not url.startswith("file:"):
        return None
    path = Path(url2pathname(urlsplit(url).path))
    if not path.is_file():
        raise InputError(f"there is no file {path}. Correct the archive's address, {url}, or put the archive there.")
    return path


def _downloaded_archive(url: str, work: Path, max_bytes: int, on_progress: Progress) -> Path:
    """The whole archive as a file in ``work``, going on with what an earlier call left there."""
    # Another address may hold another archive: the two must not be mixed.
    archive = work / hashlib.sha256(url.encode()).hexdigest()[:16]
    if not archive.exists():
        unfinished = archive.with_suffix(".part")
        with open(unfinished, "ab") as file:
            _download(url, file, max_bytes, on_progress)
        os.rename(unfinished, archive)
    size = archive.stat().st_size
    on_progress(size, size)
    return archive


def _download(url: str, file: IO[bytes], max_bytes: int, on_progress: Progress) -> None:
    """Append what ``file`` lacks; a connection lost on the way is made anew."""
    with requests.Session() as session:
        for scheme in ("http://", "https://"):
            session.mount(scheme, HTTPAdapter(max_retries=_RETRY))
        for left in reversed(range(_CONNECTIONS)):
            try:
                return _receive(session, url, file, max_bytes, on_progress)
            except (requests.RequestException, HTTPError) as error:
                # The former could not connect in spite of its own tries, the latter was cut off.
                if isinstance(error, requests.RequestException) or not left:
                    raise InputError(
                        f"cannot download {url}: {error}. Check the address and the network, then run this again: it "
                        f"goes on after the {file.tell():,} bytes that are here."
                    ) from error
    return None


def _receive(session: requests.Session, url: str, file: IO[bytes], max_bytes: int, on_progress: Progress) -> None:
    """Append what one answer of the server brings, which must be the rest of the file or the whole.

    Raises:
        HTTPError: the connection was lost, or the answer goes on elsewhere; another request may do better.
    """
    start = file.seek(0, os.SEEK_END)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with session.get(url, headers=headers, stream=True, timeout=_CONNECT_AND_READ_SECONDS) as response:
        first, total = _extent(response, url)
        if first != start:
            file.truncate(0)
            file.seek(0)
            if first != 0:
                raise ProtocolError(f"bytes from {start:,} were asked for, and the answer starts at {first}")
        _require(total or 0, max_bytes, "bytes", "max_bytes", url)
        on_progress(file.tell(), total)
        if response.status_code != _NOTHING_LEFT:
            # As sent: some servers declare gzip, the archive's own compression, to be the transfer's.
            for block in response.raw.stream(_BLOCK_BYTES, decode_content=False):
                file.write(block)
                on_progress(file.tell(), total)
                _require(file.tell(), max_bytes, "bytes", "max_bytes", url)
        if total is not None and file.tell() != total:
            raise ProtocolError(f"the connection ended after {file.tell():,} of {total:,} bytes")


def _extent(response: requests.Response, url: str) -> tuple[int | None, int | None]:
    """The position of the answer's first byte in the file, and the file's size; None is unknown."""
    length = response.headers.get("Content-Length", "")
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    first, size = match.groups() if match else (None, None)
    total = int(size) if size and size != "*" else None
    if response.status_code == 200:
        return 0, int(length) if length.isdecimal() else None
    if response.status_code == 206:
        return int(first) if first else None, total
    if response.status_code == _NOTHING_LEFT:
        return total, total
    raise InputError(
        f"cannot download {url}: the server answers {response.status_code} {response.reason}. Open the address in a "
        "browser to see whether it has moved; if the server is at fault, try again later."
    )


def _require(number: int, limit: int, what: str, name: str, url: str) -> None:
    if number > limit:
        raise InputError(
            f"the archive {url} has more than {limit:,} {what}, the limit `{name}`. If that is as it should be, raise "
            "the limit; else correct the address."
        )


def _require_checksum(archive: Path, checksum: str | None) -> None:
    if checksum is None:
        return
    name, expected = checksum.lower().split(":")
    with open(archive, "rb") as file:
        # MD5 guards against damage only; it is what many publishers give.
        got = hashlib.file_digest(file, partial(hashlib.new, name, usedforsecurity=False)).hexdigest()
    if got != expected:
        raise _UnusableError(
            f"is not the expected one: its {name} is {got}, expected {expected}. Run this again to download it anew; "
            "if it comes out the same, correct the address or the checksum."
        )


class _Meter:
    """Reads from ``source``, and refuses to go on past the limits; headers may lie, so it counts what comes."""

    def __init__(self, url: str, max_bytes: int, max_members: int) -> None:
        self.source: IO[bytes]
        self.tail = b""
        self._url, self._max_bytes, self._max_members = url, max_bytes, max_members
        self._bytes = self._members = 0

    def read(self, size: int) -> bytes:
        data = self.source.read(size)
        self._bytes += len(data)
        _require(self._bytes, self._max_bytes, "bytes unpacked", "max_bytes", self._url)
        self.tail = (self.tail + data)[-tarfile.BLOCKSIZE :]
        return data

    def count_member(self) -> None:
        self._members += 1
        _require(self._members, self._max_members, "files and folders", "max_members", self._url)


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
