"""Files fetched over an address: gone on with after a loss, and checked."""

import hashlib
import os
import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple
from urllib.parse import urljoin, urlsplit
from urllib.request import url2pathname

import requests
from requests.utils import requote_uri
from urllib3.exceptions import HTTPError, ProtocolError
from urllib3.util import Retry

from lance_pipeline.display import shortened
from lance_pipeline.errors import InputError
from lance_pipeline.sources.download_pace import Pace, PacedSession, TooSlowError
from lance_pipeline.storage.addresses import Address
from lance_pipeline.storage.redacted_errors import redacted
from lance_pipeline.storage.redaction import redact

# For a connection that cannot be made or gives no answer: after 0, 2, 4 and 8 seconds. Not for an answer, the body of
# which would be read into memory.
_RETRY = Retry(total=4, backoff_factor=1, respect_retry_after_header=False)
# Waits for a busy server. Its wish for more is no reason to stand still: a later run continues.
_BUSY = (429, 500, 502, 503, 504)
_BUSY_SECONDS = (0, 2, 4, 8)
_REDIRECTS = 10
_CONNECT_AND_READ_SECONDS = (10, 60)
_CONNECTIONS = 10
_BLOCK_BYTES = 1 << 18
_NOTHING_LEFT = 416
_URL = re.compile(r"https?://[^\s/?#]\S*|file:///.+")
_VERSION = re.compile(r"[ -~]{1,200}")
_CHECKSUM = re.compile(r"sha256:[0-9a-f]{64}|md5:[0-9a-f]{32}")
_LENGTH = re.compile(r"[0-9]{1,18}")
_CONTENT_RANGE = re.compile(r"bytes (?:([0-9]{1,18})-[0-9]{1,18}|\*)/([0-9]{1,18}|\*)")
# Told the bytes that are here and, if the server says, the bytes in all.
Progress = Callable[[int, int | None], None]

MIN_BYTES_PER_SECOND = 10_000
"""The least speed of a download, on average over a minute."""


def require_address(url: Address) -> None:
    """Check the form of an address; whether anything is there, only the attempt can show.

    Raises:
        InputError: it is no http, https or file address, or it is not clear where its user part ends.
    """
    if not _URL.fullmatch(url.full()):
        raise InputError(
            f"the archive's address is {url!r}. Expected https://<server>/<path>, http://<server>/<path> or "
            "file:///<path> of a .tar, .tar.gz, .tar.xz or .zip archive."
        )


def require_checksum_form(checksum: str) -> None:
    """Check the form of a checksum.

    Raises:
        InputError: it is neither a SHA-256 nor an MD5.
    """
    if not _CHECKSUM.fullmatch(checksum.lower()):
        raise InputError(
            f"the archive's checksum is {checksum!r}. Expected `sha256:` and 64 hexadecimal digits, or `md5:` and 32, "
            "as the archive's publisher or `sha256sum <file>` tells them."
        )


def require_within(number: int, limit: int, what: str, name: str, url: Address) -> None:
    """Refuse what is larger than the setting ``name`` allows.

    Raises:
        InputError: the archive has more than ``limit`` of ``what``.
    """
    if number > limit:
        raise InputError(
            f"the archive {url} has more than {limit:,} {what}, the limit `{name}`. If that is as it should be, raise "
            "the limit; else correct the address."
        )


def fetch(
    url: Address,
    checksum: str | None,
    work: Path,
    *,
    max_bytes: int,
    on_progress: Progress,
    min_bytes_per_second: int = MIN_BYTES_PER_SECOND,
) -> Path:
    """The checked file of an address, downloaded into ``work`` unless the address is one on disk.

    A download resumes with what an earlier one left in ``work``. One that comes out other than
    expected is removed.

    Args:
        url: an http, https or file address.
        checksum: ``sha256:…`` or ``md5:…`` in hexadecimal digits; ``None`` trusts what comes.
        work: a folder that exists.
        max_bytes: the most that a download may measure.
        on_progress: told the bytes that are here and, if the server says, the bytes in all.
        min_bytes_per_second: a download ends when less than that comes, on average over a minute.

    Raises:
        InputError: there is no such file, it is too large, the download fails or is too slow, or it is not what the
            checksum says.
    """
    file = _local_file(url, max_bytes)
    if file is None:
        file = _downloaded_file(url, work, _Limits(max_bytes, min_bytes_per_second), on_progress)
    if checksum is not None:
        name, expected = checksum.lower().split(":")
        got = _checksum(file, name)
        if got != expected:
            if file.parent == work:
                file.unlink()
            raise InputError(
                f"the archive {url} is not the expected one: its {name} is {got}, expected {expected}. Run this again "
                "to download it anew; if it comes out the same, correct the address or the checksum."
            )
    return file


def _checksum(path: Path, name: str) -> str:
    with open(path, "rb") as file:
        # MD5 guards against damage only; it is what many publishers give.
        return hashlib.file_digest(file, partial(hashlib.new, name, usedforsecurity=False)).hexdigest()


class _Limits(NamedTuple):
    bytes: int
    bytes_per_second: int


class _BusyError(Exception):
    """The server may answer better in a moment."""


def _local_file(url: Address, max_bytes: int) -> Path | None:
    """The file of a ``file://`` address."""
    if not url.full().startswith("file:"):
        return None
    path = Path(url2pathname(urlsplit(url.full()).path))
    if not path.is_file():
        raise InputError(f"there is no file {path}. Correct the archive's address, {url}, or put the archive there.")
    require_within(path.stat().st_size, max_bytes, "bytes", "max_bytes", url)
    return path


def _downloaded_file(url: Address, work: Path, limits: _Limits, on_progress: Progress) -> Path:
    """The whole file in ``work``, going on with what an earlier call left there."""
    # Another address may hold another file: the two must not be mixed.
    whole = work / hashlib.sha256(url.full().encode()).hexdigest()[:16]
    if not whole.exists():
        unfinished, validator = whole.with_suffix(".part"), whole.with_suffix(".validator")
        with open(unfinished, "ab") as file:
            _download(url, file, validator, limits, on_progress)
        os.rename(unfinished, whole)
        validator.unlink(missing_ok=True)
    size = whole.stat().st_size
    on_progress(size, size)
    return whole


def _download(url: Address, file: IO[bytes], validator: Path, limits: _Limits, on_progress: Progress) -> None:
    """Append what ``file`` lacks; a lost connection is made again."""
    waits = iter(_BUSY_SECONDS)
    with Pace(limits.bytes_per_second) as pace, PacedSession(pace, _RETRY) as session:
        for left in reversed(range(_CONNECTIONS)):
            try:
                return _receive(session, pace, url, file, validator, limits.bytes, on_progress)
            except _BusyError as busy:
                seconds = next(waits, None)
                if seconds is None or not left:
                    raise InputError(str(busy)) from busy
                time.sleep(seconds)
            except (requests.RequestException, HTTPError, TooSlowError) as error:
                here = f"the {file.tell():,} bytes that are here"
                if pace.too_slow:
                    raise InputError(
                        f"cannot download {url}: less than {limits.bytes_per_second:,} bytes a second came over a "
                        f"minute, the limit `min_bytes_per_second`. Run this again later: it continues after {here}. "
                        "If the network is that slow, lower the limit."
                    ) from error
                # The former could not connect in spite of its own tries, the latter was cut off.
                if isinstance(error, requests.RequestException) or not left:
                    raise InputError(
                        f"cannot download {url}: {shortened(redact(error))}. Check the address and the network, then "
                        f"run this again: it continues after {here}."
                    ) from redacted(error)
    return None


def _answer(session: PacedSession, url: str, headers: dict[str, str]) -> requests.Response:
    """The answer to a request, after redirects, of which no body is read."""
    for _ in range(_REDIRECTS):
        response = session.get(
            url, headers=headers, stream=True, timeout=_CONNECT_AND_READ_SECONDS, allow_redirects=False
        )
        target = session.get_redirect_target(response)
        if target is None:
            return response
        response.close()
        try:
            url = urljoin(response.url, requote_uri(target))
        except ValueError as error:
            raise requests.exceptions.InvalidURL(f"a redirect leads to {target!r}: {error}") from error
    raise requests.TooManyRedirects(f"there are more than {_REDIRECTS} redirects")


def _receive(
    session: PacedSession,
    pace: Pace,
    url: Address,
    file: IO[bytes],
    validator: Path,
    max_bytes: int,
    on_progress: Progress,
) -> None:
    """Append what one answer of the server brings, which must be the rest of the file or the whole.

    Raises:
        HTTPError: the connection was lost, or the answer goes on elsewhere; another request may do better.
    """
    start = file.seek(0, os.SEEK_END)
    headers = {"Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if validator.exists():  # the rest of another version of the file is of no use
            headers["If-Range"] = validator.read_text()
    with _answer(session, url.full(), headers) as response:
        # The headers of a connection that was ended look as if they were complete.
        pace.require()
        first, total = _extent(response, url)
        if first != start:
            file.truncate(0)
            file.seek(0)
            if first != 0:
                raise ProtocolError(f"bytes from {start:,} were asked for, and the answer starts at {first}")
        if first == 0:
            _remember_version(response, validator)
        require_within(total or 0, max_bytes, "bytes", "max_bytes", url)
        on_progress(file.tell(), total)
        if response.status_code != _NOTHING_LEFT:
            # As sent: some servers declare gzip, the archive's own compression, to be the transfer's.
            while block := response.raw.read1(_BLOCK_BYTES, decode_content=False):
                file.write(block)
                pace.count(len(block))
                on_progress(file.tell(), total)
                require_within(file.tell(), max_bytes, "bytes", "max_bytes", url)
        pace.require()
        if total is not None and file.tell() != total:
            raise ProtocolError(f"the connection ended after {file.tell():,} of {total:,} bytes")


def _remember_version(response: requests.Response, validator: Path) -> None:
    """Keep what names this version of the file; a weak tag does not tell versions apart byte by byte."""
    version = response.headers.get("ETag") or response.headers.get("Last-Modified") or "W/"
    if version.startswith("W/") or not _VERSION.fullmatch(version):
        validator.unlink(missing_ok=True)
    else:
        validator.write_text(version)


def _extent(response: requests.Response, url: Address) -> tuple[int | None, int | None]:
    """The position of the answer's first byte in the file, and the file's size; None is unknown."""
    length = response.headers.get("Content-Length", "")
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    first, size = match.groups() if match else (None, None)
    total = int(size) if size and size != "*" else None
    if response.status_code == 200:
        return 0, int(length) if _LENGTH.fullmatch(length) else None
    if response.status_code == 206:
        return int(first) if first else None, total
    if response.status_code == _NOTHING_LEFT:
        return total, total
    message = (
        f"cannot download {url}: the server answers {response.status_code} {shortened(str(response.reason))}. Open the "
        "address in a browser to see whether it has moved; if the server is at fault, try again later."
    )
    raise _BusyError(message) if response.status_code in _BUSY else InputError(message)
