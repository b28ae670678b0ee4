"""A web server of one archive on loopback, for tests."""

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
    """A web server of one file, at any address below ``url``, that fails as told."""

    content: bytes = field(repr=False)
    ranges: bool = True
    sized: bool = True
    statuses: list[int] = field(default_factory=list)
    drop_after: list[int] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    seconds_per_block: float = 0
    # It says nothing more for so long: before its answers, or once after what it sent.
    seconds_before: float = 0
    seconds_after: float = 0
    # Of each request: the range that it asked for, the bytes that were sent and its If-Range.
    asked: list[str | None] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)
    conditions: list[str | None] = field(default_factory=list)
    authorizations: list[str | None] = field(default_factory=list)
    url: str = ""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        wanted = handler.headers.get("Range")
        self.asked.append(wanted)
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
    """The server, up and running, of this archive."""
    told = Server(content)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with suppress(OSError):  # the client may have gone
                told.answer(self)
            self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        told.url = f"http://127.0.0.1:{http.server_port}/bitstreams/content?sequence=4"
        try:
            yield told
        finally:
            http.shutdown()
            thread.join()


@contextmanager
def answering(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """The address of a server on loopback that reads a request and has ``answer`` write to the connection."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            with suppress(OSError):  # the client may have gone
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
