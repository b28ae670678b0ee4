"""Resumable downloads with verification."""

import hashlib
import os
import re
import ssl
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
from lance_pipeline.errors import InputError, ServiceError
from lance_pipeline.sources.download_pace import Pace, PacedSession, TooSlowError
from lance_pipeline.storage.addresses import Address
from lance_pipeline.storage.redacted_errors import chain, redacted
from lance_pipeline.storage.redaction import redact

# Retries connections that fail or receive no response after 0, 2, 4 and 8 seconds. Responses are not retried here:
# urllib3 would read their bodies into memory.
_RETRY = Retry(total=4, backoff_factor=1, respect_retry_after_header=False)
# Waits for a busy server. Longer waits requested by it are ignored: a later run resumes the download.
_BUSY = (429, 500, 502, 503, 504)
_BUSY_SECONDS = (0, 2, 4, 8)
_REDIRECTS = 10
_CONNECT_AND_READ_SECONDS = (10, 60)
_CONNECTIONS = 10
# Errors that the next attempt may not meet. Others are those of an address that is none, or of certificates.
_PASSING = (requests.ConnectionError, requests.Timeout, HTTPError, TooSlowError)
_BLOCK_BYTES = 1 << 18
_NOTHING_LEFT = 416
_VERSION = re.compile(r"[ -~]{1,200}")
_LENGTH = re.compile(r"[0-9]{1,18}")
_CONTENT_RANGE = re.compile(r"bytes (?:([0-9]{1,18})-[0-9]{1,18}|\*)/([0-9]{1,18}|\*)")
# Called with the bytes received so far and the total, which is None if unknown.
Progress = Callable[[int, int | None], None]

MIN_BYTES_PER_SECOND = 10_000
"""The minimum speed of a download, on average over a minute."""


def require_within(number: int, limit: int, what: str, name: str, url: Address) -> None:
    """Check that an archive does not exceed the setting ``name``.

    Raises:
        InputError: it has more than ``limit`` of ``what``.
    """
    if number > limit:
        raise InputError(
            f"the archive {url} has more than {limit:,} {what}, the limit `{name}`. If that is expected, raise the "
            "limit; otherwise correct the address."
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
    """Download and verify a file; a file on disk is only verified.

    A download resumes an unfinished one in ``work``. It is removed if it does not match the checksum.

    Args:
        url: an http, https or file address.
        checksum: ``sha256:…`` or ``md5:…`` in hexadecimal digits; ``None`` skips the check.
        work: an existing folder for downloads.
        max_bytes: maximum size of the file.
        on_progress: called with the bytes received so far and the total, which is None if unknown.
        min_bytes_per_second: a download that is slower on average over a minute is aborted.

    Returns:
        The path of the file.

    Raises:
        InputError: the file does not exist, is too large or does not match the checksum, or the server refuses it.
        ServiceError: the server or the network is away, busy or too slow.
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
                "to download it again; if the result is the same, correct the address or the checksum."
            )
    return file


def _checksum(path: Path, name: str) -> str:
    with open(path, "rb") as file:
        # MD5 protects against damage only, but many publishers provide it.
        return hashlib.file_digest(file, partial(hashlib.new, name, usedforsecurity=False)).hexdigest()


class _Limits(NamedTuple):
    bytes: int
    bytes_per_second: int


class _BusyError(Exception):
    """The server is temporarily busy."""


def _local_file(url: Address, max_bytes: int) -> Path | None:
    """The file of a ``file://`` address; None for other addresses."""
    if not url.full().startswith("file:"):
        return None
    path = Path(url2pathname(urlsplit(url.full()).path))
    if not path.is_file():
        raise InputError(f"there is no file {path}. Correct the archive's address, {url}, or put the archive there.")
    require_within(path.stat().st_size, max_bytes, "bytes", "max_bytes", url)
    return path


def _downloaded_file(url: Address, work: Path, limits: _Limits, on_progress: Progress) -> Path:
    """Download the file into ``work``, resuming an unfinished download."""
    # Named by the address, so that files of different addresses are not mixed.
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
    """Append the rest of the file to ``file``, reconnecting if the connection is lost."""
    waits = iter(_BUSY_SECONDS)
    with Pace(limits.bytes_per_second) as pace, PacedSession(pace, _RETRY) as session:
        for left in reversed(range(_CONNECTIONS)):
            try:
                return _receive(session, pace, url, file, validator, limits.bytes, on_progress)
            except _BusyError as busy:
                seconds = next(waits, None)
                if seconds is None or not left:
                    raise ServiceError(str(busy)) from busy
                time.sleep(seconds)
            except (requests.RequestException, HTTPError, TooSlowError) as error:
                resumes = f"it continues after the {file.tell():,} bytes already received"
                if pace.too_slow:
                    raise ServiceError(
                        f"cannot download {url}: fewer than {limits.bytes_per_second:,} bytes per second were received "
                        f"over a minute, the limit `min_bytes_per_second`. Run this again later: {resumes}. If the "
                        "network is always that slow, lower the limit."
                    ) from error
                # A RequestException means that all retries to connect failed; otherwise the connection was lost.
                if isinstance(error, requests.RequestException) or not left:
                    raise (ServiceError if _may_pass(error) else InputError)(
                        f"cannot download {url}: {shortened(redact(error))}. Check the address and the network, then "
                        f"run this again: {resumes}."
                    ) from redacted(error)
    return None


def _may_pass(error: Exception) -> bool:
    untrusted = any(isinstance(one, ssl.SSLCertVerificationError) for one in chain(error))
    return isinstance(error, _PASSING) and not untrusted


def _request(session: PacedSession, url: str, headers: dict[str, str]) -> requests.Response:
    """Send a request and follow redirects without reading their bodies."""
    for _ in range(_REDIRECTS):
        try:
            response = session.get(
                url, headers=headers, stream=True, timeout=_CONNECT_AND_READ_SECONDS, allow_redirects=False
            )
        except requests.RequestException:
            raise
        except OSError as error:
            # Such as a missing file of certificates (REQUESTS_CA_BUNDLE): no error of the disk that is written to.
            raise requests.RequestException(error) from error
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
    """Send one request and write its response, either the rest of the file or the whole file.

    Raises:
        HTTPError: the connection was lost, or the response starts at a wrong position; another request may succeed.
    """
    start = file.seek(0, os.SEEK_END)
    headers = {"Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if validator.exists():  # only resume the same version of the file
            headers["If-Range"] = validator.read_text()
    with _request(session, url.full(), headers) as response:
        # If the connection was shut down by the pace, incomplete headers look complete.
        pace.require()
        first, total = _extent(response, url)
        if first != start:
            file.truncate(0)
            file.seek(0)
            if first != 0:
                raise ProtocolError(f"requested bytes from {start:,} on, but the response starts at {first}")
        if first == 0:
            _store_version(response, validator)
        require_within(total or 0, max_bytes, "bytes", "max_bytes", url)
        on_progress(file.tell(), total)
        if response.status_code != _NOTHING_LEFT:
            # Not decoded: some servers declare the archive's own gzip compression as a content encoding.
            while block := response.raw.read1(_BLOCK_BYTES, decode_content=False):
                file.write(block)
                pace.count(len(block))
                on_progress(file.tell(), total)
                require_within(file.tell(), max_bytes, "bytes", "max_bytes", url)
        pace.require()
        if total is not None and file.tell() != total:
            raise ProtocolError(f"the connection ended after {file.tell():,} of {total:,} bytes")


def _store_version(response: requests.Response, validator: Path) -> None:
    """Store the validator of this version of the file; weak tags do not identify the exact bytes."""
    version = response.headers.get("ETag") or response.headers.get("Last-Modified") or "W/"
    if version.startswith("W/") or not _VERSION.fullmatch(version):
        validator.unlink(missing_ok=True)
    else:
        validator.write_text(version)


def _extent(response: requests.Response, url: Address) -> tuple[int | None, int | None]:
    """The position of the response's first byte in the file, and the file's size; None if unknown."""
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
        f"cannot download {url}: the server responded {response.status_code} {shortened(str(response.reason))}. Open "
        "the address in a browser to see whether it has moved; if the server is at fault, try again later."
    )
    raise _BusyError(message) if response.status_code in _BUSY else InputError(message)
