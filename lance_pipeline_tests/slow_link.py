"""A proxy for a loopback server that can hold requests, to simulate a slow connection."""

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

_HOP_BY_HOP = {"connection", "transfer-encoding"}


class Link:
    """Forwards GET and HEAD requests.

    Args:
        server: the address of the server.

    Attributes:
        url: the address of the proxy.
        waiting: the number of pending requests.
    """

    def __init__(self, server: str) -> None:
        self.url, self.waiting = "", 0
        self._server, self._lock = urlsplit(server).netloc, threading.Lock()
        self._open = threading.Event()
        self._open.set()

    def hold(self) -> None:
        """Hold all requests from now on."""
        self._open.clear()

    def release(self) -> None:
        """Forward all held requests and later ones."""
        self._open.set()

    def forward(self, handler: BaseHTTPRequestHandler) -> None:
        """Forward a request to the server and return its response."""
        with self._lock:
            self.waiting += 1
        self._open.wait()
        far = http.client.HTTPConnection(self._server)
        far.request(handler.command, handler.path, headers=dict(handler.headers))
        answer = far.getresponse()
        content = answer.read()
        far.close()
        with self._lock:
            self.waiting -= 1
        handler.send_response(answer.status)
        headers = {name: value for name, value in answer.getheaders() if name.lower() not in _HOP_BY_HOP}
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(content)


@contextmanager
def slow_link(server: str) -> Iterator[Link]:
    """Run a proxy for the server, which forwards all requests until ``hold`` is called."""
    link = Link(server)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            link.forward(self)

        def do_HEAD(self) -> None:
            link.forward(self)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            pass

    near = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    near.daemon_threads = True
    link.url = f"http://127.0.0.1:{near.server_port}"
    threading.Thread(target=near.serve_forever, daemon=True).start()
    try:
        yield link
    finally:
        link.release()
        near.shutdown()
        near.server_close()
