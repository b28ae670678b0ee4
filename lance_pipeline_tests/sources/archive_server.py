"""A web server for one archive on loopback, for tests."""

import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Server:
    """A web server that serves one file at any address below ``url``, with configurable failures."""

    content: bytes = field(repr=False)
    ranges: bool = True
    sized: bool = True
    statuses: list[int] = field(default_factory=list)
    drop_after: list[int] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    seconds_per_block: float = 0
    # Delays: before each response, and once after a body.
    seconds_before: float = 0
    seconds_after: float = 0
    # For each request: its Range, the number of bytes sent and its If-Range.
    requested_ranges: list[str | None] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)
    conditions: list[str | None] = field(default_factory=list)
    authorizations: list[str | None] = field(default_factory=list)
    url: str = ""

    def wait_for_requests(self, count: int) -> int:
        """The number of requests so far, once there are ``count``: a client may give up before its request is read."""
        deadline = time.monotonic() + 60
        while len(self.requested_ranges) < count and time.monotonic() < deadline:
            time.sleep(0.01)
        return len(self.requested_ranges)

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        wanted = handler.headers.get("Range")
        self.requested_ranges.append(wanted)
        self.sent.append(0)
        self.authorizations.append(handler.headers.get("Authorization"))
        request = len(self.sent) - 1
        size, start = len(self.content), 0
        status = self.statuses.pop(0) if self.statuses else 200
        headers = dict(self.headers)
        condition = handler.headers.get("If-Range")
        self.conditions.append(condition)
        same = condition is None or condition in headers.values()
        if status == 200 and wanted and self.ranges and same:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            status = 206 if start < size else 416
            headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}" if start < size else f"bytes */{size}"
        body = self.content[start:] if status in (200, 206) else b"<html>an error page</html>"
        if self.sized:
            headers["Content-Length"] = str(len(body))
        time.sleep(self.seconds_before)
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        if self.drop_after:
            body = body[: self.drop_after.pop(0)]
        for offset in range(0, len(body), 50_000):
            self.sent[request] += len(body[offset : offset + 50_000])
            handler.wfile.write(body[offset : offset + 50_000])
            time.sleep(self.seconds_per_block)
        seconds, self.seconds_after = self.seconds_after, 0
        time.sleep(seconds)


@contextmanager
def serving(content: bytes) -> Iterator[Server]:
    """Run a server for this archive."""
    server = Server(content)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with suppress(OSError):  # the client may have disconnected
                server.answer(self)
            self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        server.url = f"http://127.0.0.1:{http.server_port}/bitstreams/content?sequence=4"
        try:
            yield server
        finally:
            http.shutdown()
            thread.join()


@contextmanager
def answering(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """Run a server on loopback that calls ``answer`` with the connection after each request; yields its address."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            with suppress(OSError):  # the client may have disconnected
                while self.rfile.readline().strip():
                    pass
                answer(self.connection)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/a.zip"
        finally:
            server.shutdown()
            thread.join()
