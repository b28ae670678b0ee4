"""Enforcement of a minimum download speed, in every phase of a connection."""

import socket
import threading
from contextlib import suppress
from typing import Any, Self

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool
from urllib3.util import Retry

_WINDOW_SECONDS = 60


class TooSlowError(Exception):
    """The download is slower than the minimum speed."""


class Pace:
    """Watches the connections of one download, and shuts them down if too few bytes are received in a minute.

    Socket timeouts do not suffice: they apply to a single system call, and a byte now and then, even of a header,
    satisfies them.

    Args:
        rate: minimum bytes per second.
    """

    def __init__(self, rate: int) -> None:
        self.too_slow = False
        self._least = rate * _WINDOW_SECONDS
        self._bytes = 0
        self._sockets: list[socket.socket] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="download pace", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        for one in self._sockets:
            one.close()

    def count(self, number: int) -> None:
        """Count received bytes of the file."""
        self._bytes += number

    def watch(self, connection: socket.socket) -> None:
        """Watch a connection.

        Raises:
            TooSlowError: the connections were shut down.
        """
        # A duplicate, because wrapping the socket for TLS replaces the object.
        self._sockets.append(connection.dup())
        self.require()

    def require(self) -> None:
        """Check that the download was fast enough so far.

        Raises:
            TooSlowError: the connections were shut down.
        """
        if self.too_slow:
            raise TooSlowError

    def _watch(self) -> None:
        before = 0
        while not self._ended.wait(_WINDOW_SECONDS):
            now = self._bytes
            if now - before < self._least:
                self.too_slow = True
                for one in list(self._sockets):
                    with suppress(OSError):  # the server may have closed it
                        one.shutdown(socket.SHUT_RDWR)
                return
            before = now


class PacedSession(requests.Session):
    """A session that has all its connections watched and does not follow redirects.

    Args:
        pace: watches the connections.
        retry: for connections that fail or receive no response.
    """

    def __init__(self, pace: Pace, retry: Retry) -> None:
        super().__init__()
        for scheme in ("http://", "https://"):
            self.mount(scheme, _PacedAdapter(pace, retry))

    def resolve_redirects(self, *_: Any, **__: Any) -> Any:
        """Follow no redirects: requests would read their bodies, of any length, into memory."""
        return iter(())


class _PacedAdapter(HTTPAdapter):
    def __init__(self, pace: Pace, retry: Retry) -> None:
        super().__init__(max_retries=retry)
        self._pace = pace

    def get_connection_with_tls_context(
        self,
        request: requests.PreparedRequest,
        verify: bool | str,
        proxies: dict[str, str] | None = None,
        cert: Any = None,
    ) -> HTTPConnectionPool:
        pool = super().get_connection_with_tls_context(request, verify, proxies, cert)
        if not hasattr(pool.ConnectionCls, "paced"):
            pool.ConnectionCls = _paced(pool.ConnectionCls, self._pace)
        return pool


def _paced(connection_class: Any, pace: Pace) -> Any:
    class Paced(connection_class):
        paced = True

        # Watched from here on, because the TLS handshake may also take forever.
        def _new_conn(self) -> socket.socket:
            made = super()._new_conn()
            pace.watch(made)
            return made

    return Paced
