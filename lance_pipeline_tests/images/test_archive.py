import hashlib
import io
import os
import re
import signal
import stat
import struct
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from lance_pipeline.errors import InputError
from lance_pipeline.images import archive
from lance_pipeline.images.archive import make_from_archive

NOISE = np.random.default_rng(0).bytes(3_000_000)
# As in CINIC-10: splits of classes, and files beside them.
FILES = {
    "README.md": b"about",
    "imagenet-contributors.csv": b"a, b",
    "train/cat/1.png": NOISE,
    "train/dog/2.png": b"",
    "valid/cat/3.png": b"three",
    "test/dog/4 ü.png": b"four",
}
LIMIT = 10_000_000
FORMATS = ("tar", "tar.gz", "tar.xz", "zip")


def packed(files: dict[str, bytes], form: str = "tar.gz") -> bytes:
    """An archive of these files, and of their folders as tar and zip list them."""
    buffer = io.BytesIO()
    folders = sorted({str(parent) for name in files for parent in Path(name).parents} - {"."})
    if form == "zip":
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
            for folder in folders:
                file.mkdir(folder)
            for name, content in files.items():
                file.writestr(name, content)
        return buffer.getvalue()
    with tar_writer(buffer, form) as file:
        for folder in folders:
            add(file, f"./{folder}", kind=tarfile.DIRTYPE)
        for name, content in files.items():
            add(file, f"./{name}", content)
    return buffer.getvalue()


def tar_writer(buffer: io.BytesIO, form: str) -> tarfile.TarFile:
    if form == "tar.gz":
        return tarfile.open(fileobj=buffer, mode="w:gz")
    return tarfile.open(fileobj=buffer, mode="w:xz") if form == "tar.xz" else tarfile.open(fileobj=buffer, mode="w")


def add(file: tarfile.TarFile, name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> None:
    member = tarfile.TarInfo(name)
    member.size, member.type, member.linkname = len(content), kind, link
    file.addfile(member, io.BytesIO(content))


def content_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# Packing is most of what these tests take.
PACKED = {form: packed(FILES, form) for form in FORMATS}


@dataclass
class Server:
    """A web server of one file, at any address below ``url``, that fails as told."""

    content: bytes = field(default=PACKED["tar.gz"], repr=False)
    ranges: bool = True
    sized: bool = True
    statuses: list[int] = field(default_factory=list)
    drop_after: list[int] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    seconds_per_block: float = 0
    # It says nothing more for so long: before its answers, or once after what it sent.
    seconds_before: float = 0
    seconds_after: float = 0
    # Of each request: the range that it asked for and the bytes that were sent.
    asked: list[str | None] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)
    url: str = ""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        wanted = handler.headers.get("Range")
        self.asked.append(wanted)
        self.sent.append(0)
        request = len(self.sent) - 1
        size, start = len(self.content), 0
        status = self.statuses.pop(0) if self.statuses else 200
        headers = dict(self.headers)
        if status == 200 and wanted and self.ranges:
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


@pytest.fixture
def server() -> Iterator[Server]:
    told = Server()

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
        yield told
        http.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "_RETRY", archive._RETRY.new(backoff_factor=0))


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "raw" / "cinic"


def make(url: str, target: Path | str, checksum: str | None = None, limit: int = LIMIT, **more) -> bool:
    more.setdefault("on_progress", lambda done, total: None)
    return make_from_archive(url, checksum, str(target), max_bytes=limit, **more)


def make_until(url: str, target: Path, enough: int) -> int:
    """Break off, as Ctrl-C does, when ``enough`` bytes are here; returns how many there are."""
    here = 0

    def interrupt(done: int, total: int | None) -> None:
        nonlocal here
        here = done
        if done >= enough:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(url, target, on_progress=interrupt)
    return here


def kept(target: Path) -> list[str]:
    """What waits for the next call; nothing else may be beside the target."""
    waiting = target.parent / f".{target.name}.download"
    assert set(os.listdir(target.parent)) <= {waiting.name, f".{target.name}.lock"}
    return os.listdir(waiting)


def sha256(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def test_a_folder_comes_of_an_archive(server, target):
    told = []
    assert make(server.url, target, sha256(server.content), on_progress=lambda *progress: told.append(progress))
    assert content_of(target) == FILES
    assert sorted(os.listdir(target.parent)) == [".cinic.lock", "cinic"]
    assert server.asked == [None]
    size = len(server.content)
    assert told[0] == (0, size)
    assert told[-1] == (size, size)
    assert told == sorted(told)
    assert len(told) > 5


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("top", ["", "CINIC-10/"])
def test_each_form_with_and_without_one_folder_at_its_top(form, top, server, target):
    server.content = packed({top + name: content for name, content in FILES.items()}, form) if top else PACKED[form]
    assert make(server.url, target, "md5:" + hashlib.md5(server.content).hexdigest().upper())
    assert content_of(target) == FILES


def test_one_file_is_put_into_a_folder(server, target):
    server.content = packed({"1.png": b"one"})
    assert make(server.url, target)
    assert content_of(target) == {"1.png": b"one"}


def test_files_have_the_rights_of_new_files(server, target):
    make(server.url, target)
    new = target.parent / "new"
    new.mkdir()
    (new / "file").touch()
    assert stat.filemode(target.stat().st_mode) == stat.filemode(new.stat().st_mode)
    assert stat.filemode((target / "README.md").stat().st_mode) == stat.filemode((new / "file").stat().st_mode)


def test_a_folder_that_is_there_is_left_alone(server, target):
    target.mkdir(parents=True)
    assert not make(server.url, target)
    assert (server.asked, os.listdir(target), os.listdir(target.parent)) == ([], [], ["cinic"])


def test_an_archive_on_disk_is_read_where_it_is(tmp_path, target):
    file = tmp_path / "of mine.data"
    file.write_bytes(PACKED["zip"])
    assert make(file.as_uri(), target, sha256(file.read_bytes()))
    assert content_of(target) == FILES
    file.write_bytes(b"no archive")
    with pytest.raises(InputError, match="cannot be read"):
        make(file.as_uri(), tmp_path / "other")
    assert file.read_bytes() == b"no archive"


def test_no_archive_on_disk(tmp_path, target):
    with pytest.raises(InputError, match=r"there is no file .*/missing\.zip"):
        make((tmp_path / "missing.zip").as_uri(), target)


def test_a_lost_connection_is_made_anew(server, target):
    server.drop_after = [1_000_000, 0, 1_000_000]
    assert make(server.url, target, sha256(server.content))
    assert content_of(target) == FILES
    first, *others = server.asked
    assert first is None
    assert others[0] == others[1]
    starts = [int(str(wanted)[6:-1]) for wanted in others]
    # What the client had in hand when the connection went is asked for again, and no more.
    assert 1_000_000 - archive._BLOCK_BYTES < starts[0] <= 1_000_000
    assert starts[1] < starts[2] <= starts[1] + 1_000_000
    assert sum(server.sent) < len(server.content) + 2 * archive._BLOCK_BYTES


def test_a_server_that_falls_silent_is_asked_again(server, target, monkeypatch):
    monkeypatch.setattr(archive, "_CONNECT_AND_READ_SECONDS", (5, 0.3))
    server.drop_after, server.seconds_after = [1_000_000], 6
    begin = time.monotonic()
    assert make(server.url, target, sha256(server.content))
    assert time.monotonic() - begin < 5
    assert len(server.asked) == 2


def test_a_server_that_never_answers(server, target, monkeypatch):
    monkeypatch.setattr(archive, "_CONNECT_AND_READ_SECONDS", (5, 0.1))
    server.seconds_before = 1
    with pytest.raises(InputError, match=r"cannot download http://.*timed out.*Check the address and the network"):
        make(server.url, target)
    assert len(server.asked) == 5


def test_a_loss_that_only_the_range_tells_of(server, target):
    make_until(server.url, target, 1_500_000)
    server.sized, server.drop_after = False, [500_000]
    assert make(server.url, target, sha256(server.content))
    assert len(server.asked) == 3


def test_a_connection_that_is_lost_each_time(server, target):
    server.drop_after = [300_000] + [0] * 1000
    with pytest.raises(
        InputError, match=r"cannot download http://.*run this again: it goes on after the [23]\d\d,\d+ "
    ):
        make(server.url, target)
    assert len(server.asked) == archive._CONNECTIONS
    assert len(kept(target)) == 1


def test_an_interrupted_download_goes_on(server, target):
    here = make_until(server.url, target, 1_500_000)
    assert 1_500_000 <= here < len(server.content)
    assert not target.exists()
    told = []
    assert make(server.url, target, sha256(server.content), on_progress=lambda *progress: told.append(progress))
    assert server.asked[1:] == [f"bytes={here}-"]
    assert server.sent[1:] == [len(server.content) - here]
    assert told[0] == (here, len(server.content))
    assert told[-1] == (len(server.content), len(server.content))
    assert content_of(target) == FILES
    assert sorted(os.listdir(target.parent)) == [".cinic.lock", "cinic"]


def test_a_server_that_cannot_go_on_sends_all_again(server, target):
    server.ranges = False
    make_until(server.url, target, 1_500_000)
    told = []
    assert make(server.url, target, sha256(server.content), on_progress=lambda *progress: told.append(progress))
    assert len(server.asked) == 2
    assert told[0] == (0, len(server.content))
    assert content_of(target) == FILES


def test_another_address_starts_anew(server, target):
    make_until(server.url, target, 1_500_000)
    server.content = packed({"train/cat/other.png": NOISE[::-1]})
    assert make(server.url + "&other", target, sha256(server.content))
    assert server.asked[1:] == [None]
    assert sorted(os.listdir(target.parent)) == [".cinic.lock", "cinic"]


def test_an_archive_that_became_smaller_starts_anew(server, target):
    make_until(server.url, target, 1_500_000)
    server.content = packed({"train/cat/small.png": b"small"})
    assert make(server.url, target, sha256(server.content))
    assert server.asked[2:] == [None]


def test_nothing_is_asked_for_again_when_all_is_here(server, target):
    make_until(server.url, target, len(server.content))
    assert make(server.url, target, sha256(server.content))
    assert server.asked[1:] == [f"bytes={len(server.content)}-"]
    assert server.sent[1] < 100


def test_a_killed_download_goes_on(server, target):
    server.seconds_per_block = 0.05
    script = (
        "from lance_pipeline.images.archive import make_from_archive\n"
        f"make_from_archive({server.url!r}, None, {str(target)!r}, max_bytes={LIMIT}, on_progress=print)"
    )
    process = subprocess.Popen([sys.executable, "-uc", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    here = 0
    while here < 1_000_000:
        here = int(process.stdout.readline().split()[0])
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
    server.seconds_per_block = 0
    assert make(server.url, target, sha256(server.content))
    start = int(str(server.asked[1])[6:-1])
    assert here <= start < len(server.content)
    assert server.sent[1] == len(server.content) - start
    assert content_of(target) == FILES
    assert sorted(os.listdir(target.parent)) == [".cinic.lock", "cinic"]


def test_what_a_killed_process_unpacked_is_not_taken(server, target):
    half = target.parent / ".cinic.download" / "unpacked"
    half.mkdir(parents=True)
    (half / "stray").touch()
    make(server.url, target)
    assert content_of(target) == FILES


def test_two_at_once_download_once(server, target):
    server.seconds_per_block = 0.01
    made = []
    threads = [threading.Thread(target=lambda: made.append(make(server.url, target))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == [False, False, True]
    assert server.asked == [None]
    assert content_of(target) == FILES
    assert sorted(os.listdir(target.parent)) == [".cinic.lock", "cinic"]


def test_a_server_that_says_no_size(server, target):
    server.sized = False
    told = []
    assert make(server.url, target, on_progress=lambda *progress: told.append(progress))
    assert told[0] == (0, None)
    assert told[-1] == (len(server.content), len(server.content))
    assert content_of(target) == FILES


def test_an_archive_is_taken_as_it_is_sent(server, target):
    server.headers = {"Content-Encoding": "gzip"}
    assert make(server.url, target, sha256(server.content))


def test_a_busy_server_is_asked_again(server, target):
    server.statuses = [503, 429]
    assert make(server.url, target, sha256(server.content))


@pytest.mark.parametrize(("status", "requests"), [(404, 1), (403, 1), (500, 5)])
def test_a_server_that_refuses(status, requests, server, target):
    server.statuses = [status] * 100
    with pytest.raises(InputError, match=rf"cannot download http://.*content.*: the server answers {status} "):
        make(server.url, target)
    assert len(server.asked) == requests
    assert not target.exists()
    server.statuses = []
    assert make(server.url, target)
    assert content_of(target) == FILES


def test_a_refusal_leaves_what_is_here(server, target):
    here = make_until(server.url, target, 1_500_000)
    server.statuses = [404]
    with pytest.raises(InputError, match="404"):
        make(server.url, target)
    assert make(server.url, target, sha256(server.content))
    assert server.asked[-1] == f"bytes={here}-"


@pytest.mark.parametrize("url", ["http://[1/a.zip", "http://:x/a.zip"])
def test_a_server_that_cannot_be(url, target):
    with pytest.raises(InputError, match=rf"cannot download {re.escape(url)}: .*Check the address"):
        make(url, target)


def test_no_server(target):
    with pytest.raises(InputError, match=r"cannot download http://127\.0\.0\.1:9/a\.zip: .*Check the address"):
        make("http://127.0.0.1:9/a.zip", target)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://server/a.zip",
        "/data/a.zip",
        "a.zip",
        "",
        "s3://bucket/a.zip",
        "https:///a.zip",
        "https://a b/c.zip",
        "file://server/a.zip",
    ],
)
def test_addresses_that_are_refused(url, target):
    with pytest.raises(InputError, match=re.escape(repr(url)) + ".*Expected https://"):
        make(url, target)
    assert not target.parent.exists()


@pytest.mark.parametrize(
    "checksum", ["", "6ee4d0c996905fe93221de577967a372", "md5:6ee4", "sha1:" + "0" * 40, "sha256:x"]
)
def test_checksums_that_are_refused(checksum, server, target):
    with pytest.raises(InputError, match=f"the checksum of http://.* is {checksum!r}. Expected `sha256:`"):
        make(server.url, target, checksum)
    assert server.asked == []


@pytest.mark.parametrize("name", ["sha256", "md5"])
def test_another_archive_than_expected(name, server, target):
    expected = hashlib.new(name, server.content).hexdigest()
    sound, server.content = server.content, server.content[:-1] + b"?"
    got = hashlib.new(name, server.content).hexdigest()
    with pytest.raises(
        InputError, match=rf"http://.* is not the expected one: its {name} is {got}, expected {expected}"
    ):
        make(server.url, target, f"{name}:{expected}")
    assert kept(target) == []
    server.content = sound
    assert make(server.url, target, f"{name}:{expected}")


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("part", [0.5, 0.99])
def test_a_truncated_archive(form, part, server, target):
    server.content = PACKED[form][: int(len(PACKED[form]) * part)]
    assert_refused(server, target, "cannot be read to its end")


def test_a_tar_cut_off_between_two_members(server, target):
    server.content = packed({"a/1.png": b"1", "a/2.png": b"2"}, "tar")[: 3 * tarfile.BLOCKSIZE]
    assert_refused(server, target, "cannot be read to its end")


@pytest.mark.parametrize("form", FORMATS)
def test_a_damaged_archive(form, server, target):
    content = bytearray(PACKED[form])
    # In tar's own form only a header tells of damage; the others have sums of all they hold.
    place = 0 if form == "tar" else len(content) // 2
    content[place : place + 100] = b"x" * 100
    server.content = bytes(content)
    assert_refused(server, target, "cannot be read to its end")


def with_header(name: str, value: str) -> bytes:
    """A tar whose one member has such an extended header."""
    member = tarfile.TarInfo("a/1.png")
    member.pax_headers = {name: value}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", format=tarfile.PAX_FORMAT) as file:
        file.addfile(member)
    return buffer.getvalue()


def wrongly_compressed() -> bytes:
    content = bytearray(packed({"1.png": bytes(1000)}, "zip"))
    start = 30 + len("1.png")
    content[start : start + 3] = b"\xff" * 3
    return bytes(content)


def encrypted() -> bytes:
    content = bytearray(packed({"1.png": b"1"}, "zip"))
    content[6] |= 1
    content[content.find(b"PK\1\2") + 8] |= 1
    return bytes(content)


@pytest.mark.parametrize(
    "content",
    [
        wrongly_compressed(),
        with_header("GNU.sparse.map", "a,b"),
        with_header("path", "a\0b"),
        encrypted(),
    ],
    ids=["deflate", "header", "name", "encrypted"],
)
def test_what_the_libraries_cannot_read(content, server, target):
    server.content = content
    assert_refused(server, target, "cannot be read to its end")


@pytest.mark.parametrize("content", [b"", b"<html>Please log in</html>", b"PK but no more", NOISE])
def test_what_is_no_archive(content, server, target):
    server.content = content
    assert_refused(server, target, r"cannot be read to its end as \.tar, \.tar\.gz, \.tar\.xz or \.zip")


@pytest.mark.parametrize("form", FORMATS)
def test_an_empty_archive(form, server, target):
    server.content = packed({}, form)
    assert_refused(server, target, "is empty")


def assert_refused(server: Server, target: Path, reason: str, kept_for_later: int = 0, **limits) -> None:
    """The archive is refused, nothing comes out of it anywhere, and only a sound one is kept."""
    outside = target.parent.parent
    with pytest.raises(InputError, match=rf"the archive http://.*content\S* .*{reason}"):
        make(server.url, target, **limits)
    assert len(kept(target)) == kept_for_later
    assert os.listdir(outside) == ["raw"]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", ["../escape", "train/../../escape", "{outside}/escape", ".."])
def test_members_that_would_leave_the_folder(form, name, server, target, tmp_path):
    name = name.format(outside=tmp_path)
    server.content = packed({"a/1.png": b"1"}, form) if form == "zip" else b""
    buffer = io.BytesIO(server.content)
    if form == "zip":
        with zipfile.ZipFile(buffer, "a") as file:
            file.writestr(name, b"escaped")
    else:
        with tar_writer(buffer, form) as file:
            add(file, "a/1.png", b"1")
            add(file, name, b"escaped")
    server.content = buffer.getvalue()
    assert_refused(server, target, f"not safe to unpack: its member '{name}' would leave the folder")


@pytest.mark.parametrize(
    ("kind", "link"),
    [
        (tarfile.SYMTYPE, "../.."),
        (tarfile.SYMTYPE, "1.png"),
        (tarfile.LNKTYPE, "a/1.png"),
        (tarfile.LNKTYPE, "/etc/passwd"),
        (tarfile.CHRTYPE, ""),
        (tarfile.BLKTYPE, ""),
        (tarfile.FIFOTYPE, ""),
        (b"?", ""),
    ],
)
def test_tar_members_that_are_neither_files_nor_folders(kind, link, server, target):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as file:
        add(file, "a/1.png", b"1")
        add(file, "a/odd", kind=kind, link=link)
        add(file, "a/odd/2.png", b"2")
    server.content = buffer.getvalue()
    assert_refused(server, target, "not safe to unpack: its member 'a/odd' is a link, a device or a sparse file")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_zip_members_that_are_neither_files_nor_folders(kind, server, target):
    member = zipfile.ZipInfo("a/odd")
    member.external_attr = (kind | 0o777) << 16
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr(member, "/etc/passwd")
    server.content = buffer.getvalue()
    assert_refused(server, target, "not safe to unpack: its member 'a/odd' is a link, a device")


@pytest.mark.parametrize("version", ["1.0", "0.1"])
def test_a_sparse_file(version, server, target):
    """A few bytes that promise a terabyte of zeros."""
    member = tarfile.TarInfo("a/1.png")
    size = str(1 << 40)
    member.pax_headers = {"GNU.sparse.size": size, "GNU.sparse.realsize": size, "GNU.sparse.map": "0,1"}
    if version == "1.0":
        member.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": size}
    data = b"1\n0\n1\n".ljust(512, b"\0") + b"x"
    member.size = len(data)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", format=tarfile.PAX_FORMAT) as file:
        file.addfile(member, io.BytesIO(data))
    server.content = buffer.getvalue()
    assert_refused(server, target, "a sparse file")


@pytest.mark.parametrize("form", ["tar.gz", "tar.xz", "zip"])
def test_more_bytes_than_allowed(form, server, target):
    server.content = packed({"a/1.png": bytes(6_000_000), "a/2.png": bytes(6_000_000)}, form)
    assert len(server.content) < 50_000
    # Sound for all that is known, so it is kept: the limit may be raised.
    assert_refused(server, target, r"more than 10,000,000 bytes unpacked, the limit `max_bytes`", kept_for_later=1)
    assert make(server.url, target, limit=2 * LIMIT)
    assert len(server.asked) == 1


def test_more_bytes_than_a_zip_says(server, target):
    buffer = bytearray(packed({"1.png": bytes(20_000_000)}, "zip"))
    for place in (buffer.find(b"PK\1\2") + 24, 22):
        assert struct.unpack_from("<I", buffer, place)[0] in (20_000_000, 0)
        struct.pack_into("<I", buffer, place, 1000)
    server.content = bytes(buffer)
    assert_refused(server, target, "cannot be read to its end")


def test_a_header_larger_than_allowed(server, target):
    """The names of a tar can be as large as its files; they are read into memory."""
    server.content = with_header("comment", "x" * 20_000_000)
    assert_refused(server, target, "bytes unpacked, the limit `max_bytes`", kept_for_later=1)


@pytest.mark.parametrize("form", FORMATS)
def test_more_members_than_allowed(form, server, target):
    server.content = packed({f"a/{number}.png": b"1" for number in range(9)}, form)
    assert_refused(server, target, "more than 9 files and folders, the limit `max_members`", 1, max_members=9)
    assert make(server.url, target, max_members=10)


@pytest.mark.parametrize("sized", [True, False])
def test_a_larger_download_than_allowed(sized, server, target):
    server.sized = sized
    with pytest.raises(InputError, match="has more than 1,000,000 bytes, the limit `max_bytes`"):
        make(server.url, target, limit=1_000_000)
    here = sum(path.stat().st_size for path in target.parent.rglob("*"))
    assert here < (100_000 if sized else 1_400_000)


def test_unwritable(server, below_a_file):
    with pytest.raises(InputError, match=r"cannot make .*below/cinic from http://.*LANCE_PIPELINE_DATA"):
        make(server.url, below_a_file + "/cinic")
    assert server.asked == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("only root may mount a small disk")
    yield disk
    subprocess.run(["umount", disk], check=True)


def enlarge(disk: Path) -> None:
    (disk / "other").unlink()
    subprocess.run(["mount", "-o", "remount,size=16m", disk], check=True)


def test_the_disk_is_full_while_downloading(server, small_disk):
    (small_disk / "other").write_bytes(bytes(3_000_000))
    with pytest.raises(InputError, match=r"cannot make .* from http://.*No space left on device.*Free space"):
        make(server.url, small_disk / "cinic")
    enlarge(small_disk)
    assert len(kept(small_disk / "cinic")) == 1
    assert make(server.url, small_disk / "cinic", sha256(server.content))
    assert server.sent[1] < 2_500_000


def test_the_disk_is_full_while_unpacking(server, small_disk):
    (small_disk / "other").write_bytes(bytes(900_000))
    with pytest.raises(InputError, match=r"cannot make .* from http://.*No space left on device.*Free space"):
        make(server.url, small_disk / "cinic")
    enlarge(small_disk)
    # The half that was unpacked is gone, the archive waits.
    assert len(kept(small_disk / "cinic")) == 1
    assert make(server.url, small_disk / "cinic", sha256(server.content))
    assert server.asked == [None]
