"""The least speed of a download: connections end when too little comes, whatever they are waiting for."""

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
    """Less has come than the least speed."""


class Pace:
    """Watches the connections of one download, and ends them when too little has come in a minute.

    Time-outs cannot see to that: each is for one answer of the operating system, and a byte now and then, of headers
    too, meets all of them.

    Args:
        rate: the least bytes a second.
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
        """So many bytes of the file have come."""
        self._bytes += number

    def watch(self, connection: socket.socket) -> None:
        """Include a connection.

        Raises:
            TooSlowError: the connections were ended.
        """
        # One that is wrapped for TLS is another object, of the same connection.
        self._sockets.append(connection.dup())
        self.require()

    def require(self) -> None:
        """Continue only while enough comes.

        Raises:
            TooSlowError: the connections were ended.
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
    """A session all connections of which are watched, and which leaves redirects to its user.

    Args:
        pace: watches.
        retry: of connections that cannot be made or give no answer.
    """

    def __init__(self, pace: Pace, retry: Retry) -> None:
        super().__init__()
        for scheme in ("http://", "https://"):
            self.mount(scheme, _PacedAdapter(pace, retry))

    def resolve_redirects(self, *_: Any, **__: Any) -> Any:
        """None: requests would read the body of each, however long, into memory."""
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

        # Such as before TLS, which may take as long as it likes too.
        def _new_conn(self) -> socket.socket:
            made = super()._new_conn()
            pace.watch(made)
            return made

    return Paced
