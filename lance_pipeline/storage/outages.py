"""Recognizing that a store, server or database is briefly away, in the errors of all libraries."""

import errno
import re
import socket
import sqlite3

from lance_pipeline.storage.redacted_errors import chain

_NETWORK = (
    errno.ETIMEDOUT,
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.ENETRESET,
    # Of network file systems: the server was restarted, or does not answer requests for locks.
    errno.ESTALE,
    errno.ENOLCK,
)
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
# Arrow's and Lance's errors differ in their text only.
_ARROW = re.compile(
    r"AWS Error (?:NETWORK_CONNECTION|SERVICE_UNAVAILABLE|INTERNAL_FAILURE|SLOW_DOWN|THROTTLING|REQUEST_TIMEOUT"
    r"|UNKNOWN \(HTTP status (?:408|429|5\d\d)\))"
)
_LANCE = re.compile(
    r"HTTP error: |status code: (?:408|429|5\d\d) |operation timed out|connection (?:reset|closed)", re.IGNORECASE
)
_LANCE_DISK = re.compile(r"\(os error (\d+)\)")
# urllib3, after it has retried such responses.
_HTTP = re.compile(r"too many (?:429|5\d\d) error responses")


def is_outage(error: BaseException) -> bool:
    """Whether an error or one of its causes means that a service is away or busy, and may answer later.

    A name that cannot be resolved counts as well: it looks the same whether the name is wrong or the network is away.
    """
    # A pipe that is closed may be this process's own output; a library's error for a connection has it as its cause.
    return not isinstance(error, BrokenPipeError) and any(_says_away(one) for one in chain(error))


def _says_away(error: BaseException) -> bool:
    if isinstance(error, sqlite3.OperationalError):
        return getattr(error, "sqlite_errorcode", 0) & 0xFF in _BUSY
    if isinstance(error, ConnectionError | TimeoutError | socket.gaierror):
        return True
    if isinstance(error, OSError) and error.errno in _NETWORK:
        return True
    text = str(error)
    if "LanceError(IO)" in text:
        numbers = (int(number) for number in _LANCE_DISK.findall(text))
        return bool(_LANCE.search(text)) or any(number in _NETWORK for number in numbers)
    return bool(_ARROW.search(text) or _HTTP.search(text))
