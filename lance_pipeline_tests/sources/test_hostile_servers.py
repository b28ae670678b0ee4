"""Servers that never finish, send too much, or send malicious responses."""

import re
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lance_pipeline.errors import ExplainedError, ServiceError
from lance_pipeline.sources import download
from lance_pipeline.sources import download_pace as pace
from lance_pipeline_tests.sources.archive_server import answering, serving
from lance_pipeline_tests.sources.archives import FILES, NOISE, PACKED, content_of, make, pack, sha256, unfinished_files

BODY = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"
LINE = b"X-Padding: " + b"x" * 60_000 + b"\r\n"


@pytest.fixture(autouse=True)
def no_retry_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_RETRY", download._RETRY.new(backoff_factor=0))
    monkeypatch.setattr(download, "_BUSY_SECONDS", (0,) * 4)
    monkeypatch.setattr(pace, "_WINDOW_SECONDS", 1)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "raw" / "cinic"


def slowly(data: bytes) -> Callable[[socket.socket], None]:
    """Send one byte at a time, for longer than any test waits."""

    def answer(connection: socket.socket) -> None:
        for number in range(1000):
            connection.sendall(data[number : number + 1] or data[-1:])
            time.sleep(0.05)

    return answer


def after(head: bytes, answer: Callable[[socket.socket], None]) -> Callable[[socket.socket], None]:
    def both(connection: socket.socket) -> None:
        connection.sendall(head)
        answer(connection)

    return both


def endlessly(data: bytes, sent: list[int]) -> Callable[[socket.socket], None]:
    def answer(connection: socket.socket) -> None:
        while True:
            connection.sendall(data)
            sent.append(len(data))

    return answer


SLOW = {
    "body": after(BODY, slowly(b"x")),
    "chunks": after(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", slowly(b"1\r\nx\r\n" * 1000)),
    "status": slowly(b"H"),
    "header": after(b"HTTP/1.1 200 OK\r\n", slowly(b"X-Padding: x")),
    "headers": after(b"HTTP/1.1 200 OK\r\n", slowly(b"X: x\r\n" * 100)),
    "interim responses": slowly(b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
    "trailers": after(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", slowly(b"X: x\r\n" * 100)),
    "nothing": lambda connection: time.sleep(50),
}


@pytest.mark.parametrize("what", SLOW)
def test_a_slow_server_is_abandoned(what, target):
    begin = time.monotonic()
    with answering(SLOW[what]) as url, pytest.raises(ServiceError, match="min_bytes_per_second"):
        make(url, target)
    assert time.monotonic() - begin < 5
    assert len(unfinished_files(target)) == 1


def test_an_endless_handshake_is_abandoned(target):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = listening.getsockname()
        with pytest.raises(ServiceError, match="min_bytes_per_second"):
            make(f"https://127.0.0.1:{address[1]}/a.zip", target)


def test_a_slow_download_is_kept(target):
    with serving(PACKED["tar.gz"]) as server:
        server.seconds_per_block = 0.4
        with pytest.raises(ServiceError, match=r"1,000,000.*min_bytes_per_second"):
            make(server.url, target, min_bytes_per_second=1_000_000)
        server.seconds_per_block = 0
        assert make(server.url, target, sha256(server.content))
        assert server.requested_ranges[0] is None
        assert int(str(server.requested_ranges[1])[6:-1]) > 0
    assert content_of(target) == FILES


def test_the_minimum_speed_can_be_turned_off(target):
    with serving(pack({"cat/1.png": NOISE[:400_000]})) as server:
        server.seconds_per_block = 0.3
        assert make(server.url, target, min_bytes_per_second=0)


ENDLESS = {
    "body of a redirect": b"HTTP/1.1 302 Found\r\nLocation: /b.zip\r\n\r\n",
    "body of a busy response": b"HTTP/1.1 503 Busy\r\n\r\n",
    "body of an error": b"HTTP/1.1 404 Missing\r\n\r\n",
    "body": b"HTTP/1.1 200 OK\r\n\r\n",
    "size of a chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    "extension of a chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;",
    "header": b"HTTP/1.1 200 OK\r\nX-Padding: ",
    "status": b"",
}


@pytest.mark.parametrize("what", [*ENDLESS, "headers"])
def test_endless_responses_are_not_read(what, target):
    sent: list[int] = []
    if what == "headers":
        answer = after(b"HTTP/1.1 200 OK\r\n", endlessly(LINE, sent))
    else:
        answer = after(ENDLESS[what], endlessly(b"0" * 60_000, sent))
    with answering(answer) as url, pytest.raises(ExplainedError, match=re.escape(url)):
        make(url, target, limit=2_000_000)
    # Includes what the system buffers for each of up to ten connections.
    assert sum(sent) < 100_000_000


def test_redirects_are_followed(target):
    content = PACKED["tar.gz"]
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content)
    with answering(lambda connection: connection.sendall(head + content)) as url:
        moved = f"HTTP/1.1 301 Moved\r\nLocation: {url}\r\nContent-Length: 0\r\n\r\n".encode()
        with answering(lambda connection: connection.sendall(moved)) as first:
            assert make(first, target, sha256(content))
    assert content_of(target) == FILES


@pytest.mark.parametrize("location", ["/a.zip", "file:///etc/passwd", "//", "http://[", "\x1b]0;owned\x07" * 5000])
def test_invalid_redirects(location, target):
    moved = b"HTTP/1.1 302 Found\r\nLocation: " + location.encode() + b"\r\nContent-Length: 0\r\n\r\n"
    with answering(lambda connection: connection.sendall(moved)) as url:
        assert_short_error(url, target)


def assert_short_error(url: str, target: Path) -> None:
    with pytest.raises(ExplainedError) as caught:
        make(url, target)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 1200


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 404 \x1b[2J\x1b]0;owned\x07" + b"x" * 50_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\nx",
        b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 0-5/" + b"9" * 5000 + b"\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nx",
        b"\x1b[31mno HTTP\r\n\r\n",
    ],
    ids=["reason", "length", "range", "negative", "none"],
)
def test_malicious_responses(answer, target):
    with answering(lambda connection: connection.sendall(answer)) as url:
        assert_short_error(url, target)


@pytest.mark.parametrize("version", [b'"a\r\n b"', b"x" * 60_000, b"\xff\xfe", b"\x1b[31m"])
def test_invalid_version_tags(version, target):
    """An interrupted download resumes, even if the server sends an invalid ETag."""
    content = PACKED["zip"]
    head = b"HTTP/1.1 200 OK\r\nETag: " + version + b"\r\nContent-Length: %d\r\n\r\n" % len(content)
    cut = [True] * download._CONNECTIONS
    with answering(
        lambda connection: connection.sendall((head + content)[: 70_000 if cut and cut.pop() else None])
    ) as url:
        with pytest.raises(ExplainedError, match=re.escape(url)):
            make(url, target)
        assert make(url, target, sha256(content))
