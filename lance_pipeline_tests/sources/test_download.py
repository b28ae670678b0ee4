"""Downloads that resume after a lost connection, and the errors of those that cannot."""

import base64
import os
import re
import signal
import subprocess
import sys
import traceback
from pathlib import Path

import pytest

from lance_pipeline.errors import ExplainedError, InputError, ServiceError
from lance_pipeline.sources import download
from lance_pipeline_tests.sources.archives import (
    FILES,
    LIMIT,
    MEMBERS,
    NOISE,
    content_of,
    make,
    pack,
    sha256,
    unfinished_files,
)


@pytest.fixture(autouse=True)
def no_retry_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_RETRY", download._RETRY.new(backoff_factor=0))
    monkeypatch.setattr(download, "_BUSY_SECONDS", (0,) * 4)


def make_until(url: str, target: Path, enough: int) -> int:
    """Interrupt a download, as Ctrl-C does, after ``enough`` bytes; returns the number of bytes received."""
    here = 0

    def interrupt(done: int, total: int | None) -> None:
        nonlocal here
        here = done
        if done >= enough:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(url, target, on_progress=interrupt)
    return here


def test_a_lost_connection_is_reconnected(server, target):
    server.drop_after = [1_000_000, 0, 1_000_000]
    assert make(server.url, target, sha256(server.content))
    assert content_of(target) == FILES
    first, *others = server.requested_ranges
    assert first is None
    assert others[0] == others[1]
    starts = [int(str(wanted)[6:-1]) for wanted in others]
    # Only the bytes that the client had not yet written when the connection was lost are requested again.
    assert 1_000_000 - download._BLOCK_BYTES < starts[0] <= 1_000_000
    assert starts[1] < starts[2] <= starts[1] + 1_000_000
    assert sum(server.sent) < len(server.content) + 2 * download._BLOCK_BYTES


def test_a_server_that_stops_sending_is_requested_again(server, target, monkeypatch):
    monkeypatch.setattr(download, "_CONNECT_AND_READ_SECONDS", (5, 0.3))
    server.drop_after, server.seconds_after = [1_000_000], 60
    assert make(server.url, target, sha256(server.content))
    assert len(server.requested_ranges) == 2


def test_a_server_that_never_responds(server, target, monkeypatch):
    monkeypatch.setattr(download, "_CONNECT_AND_READ_SECONDS", (5, 0.1))
    server.seconds_before = 1
    with pytest.raises(ServiceError, match=re.escape(server.url)):
        make(server.url, target)
    assert server.wait_for_requests(5) == 5


def test_a_truncated_response_without_a_length_is_detected(server, target):
    make_until(server.url, target, 1_500_000)
    server.sized, server.drop_after = False, [500_000]
    assert make(server.url, target, sha256(server.content))
    assert len(server.requested_ranges) == 3


def test_a_connection_that_is_lost_every_time(server, target):
    server.drop_after = [300_000] + [0] * 1000
    with pytest.raises(ServiceError, match=rf"{re.escape(server.url)}.*\b[23]\d\d,\d\d\d\b"):
        make(server.url, target)
    assert len(server.requested_ranges) == download._CONNECTIONS
    assert len(unfinished_files(target)) == 1


def test_an_interrupted_download_resumes(server, target):
    here = make_until(server.url, target, 1_500_000)
    assert 1_500_000 <= here < len(server.content)
    assert not target.exists()
    progress = []
    assert make(server.url, target, sha256(server.content), on_progress=lambda *counts: progress.append(counts))
    assert server.requested_ranges[1:] == [f"bytes={here}-"]
    assert server.sent[1:] == [len(server.content) - here]
    assert progress[0] == (here, len(server.content))
    assert progress[-1] == (len(server.content), len(server.content))
    assert content_of(target) == FILES
    assert sorted(os.listdir(target.parent)) == [".cinic.lock", "cinic"]


def test_a_server_without_ranges_sends_everything_again(server, target):
    server.ranges = False
    make_until(server.url, target, 1_500_000)
    progress = []
    assert make(server.url, target, sha256(server.content), on_progress=lambda *counts: progress.append(counts))
    assert len(server.requested_ranges) == 2
    assert progress[0] == (0, len(server.content))
    assert content_of(target) == FILES


def test_a_different_address_starts_from_scratch(server, target):
    make_until(server.url, target, 1_500_000)
    server.content = pack({"train/cat/other.png": NOISE[::-1]})
    assert make(server.url + "&other", target, sha256(server.content))
    assert server.requested_ranges[1:] == [None]
    assert sorted(os.listdir(target.parent)) == [".cinic.lock", "cinic"]


def test_an_archive_that_became_smaller_starts_from_scratch(server, target):
    make_until(server.url, target, 1_500_000)
    server.content = pack({"train/cat/small.png": b"small"})
    assert make(server.url, target, sha256(server.content))
    assert server.requested_ranges[2:] == [None]


@pytest.mark.parametrize("name", ["ETag", "Last-Modified"])
def test_a_changed_archive_starts_from_scratch(name, server, target):
    server.headers = {name: '"one"'}
    make_until(server.url, target, 1_500_000)
    server.content = pack({"train/cat/other.png": NOISE[::-1]})
    server.headers = {name: '"two"'}
    server.drop_after = [1_000_000]
    assert make(server.url, target, sha256(server.content))
    assert server.conditions[0] is None
    assert server.conditions[1:] == ['"one"', '"two"']
    assert server.sent[2] < len(server.content) - 500_000
    assert sorted(os.listdir(target.parent)) == [".cinic.lock", "cinic"]


def test_a_weak_tag_is_not_used_as_a_condition(server, target):
    server.headers = {"ETag": 'W/"one"', "Last-Modified": "Sun, 22 Nov 2026 12:00:00 GMT"}
    make_until(server.url, target, 1_500_000)
    assert make(server.url, target, sha256(server.content))
    assert server.conditions == [None, None]
    assert server.sent[1] < len(server.content) - 1_000_000


def test_a_complete_download_is_not_sent_again(server, target):
    make_until(server.url, target, len(server.content))
    assert make(server.url, target, sha256(server.content))
    assert server.requested_ranges[1:] == [f"bytes={len(server.content)}-"]
    assert server.sent[1] < 100


def test_a_killed_download_resumes(server, target):
    server.seconds_per_block = 0.05
    script = (
        "from lance_pipeline.sources.archive import make_from_archive\n"
        f"make_from_archive({server.url!r}, None, {str(target)!r}, max_bytes={LIMIT}, max_members={MEMBERS}, "
        "on_progress=print)"
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
    start = int(str(server.requested_ranges[1])[6:-1])
    assert here <= start < len(server.content)
    assert server.sent[1] == len(server.content) - start
    assert content_of(target) == FILES
    assert sorted(os.listdir(target.parent)) == [".cinic.lock", "cinic"]


def test_a_server_that_sends_no_length(server, target):
    server.sized = False
    progress = []
    assert make(server.url, target, on_progress=lambda *counts: progress.append(counts))
    assert progress[0] == (0, None)
    assert progress[-1] == (len(server.content), len(server.content))
    assert content_of(target) == FILES


def test_a_content_encoding_is_not_decoded(server, target):
    server.headers = {"Content-Encoding": "gzip"}
    assert make(server.url, target, sha256(server.content))


def test_a_busy_server_is_requested_again(server, target):
    server.statuses = [503, 429]
    assert make(server.url, target, sha256(server.content))


@pytest.mark.parametrize(
    ("status", "requests", "kind"), [(404, 1, InputError), (403, 1, InputError), (500, 5, ServiceError)]
)
def test_an_error_status(status, requests, kind, server, target):
    server.statuses = [status] * 100
    with pytest.raises(kind, match=rf"{re.escape(server.url)}.* {status} "):
        make(server.url, target)
    assert len(server.requested_ranges) == requests
    assert not target.exists()
    server.statuses = []
    assert make(server.url, target)
    assert content_of(target) == FILES


def test_an_error_status_keeps_the_unfinished_download(server, target):
    here = make_until(server.url, target, 1_500_000)
    server.statuses = [404]
    with pytest.raises(InputError, match="404"):
        make(server.url, target)
    assert make(server.url, target, sha256(server.content))
    assert server.requested_ranges[-1] == f"bytes={here}-"


@pytest.mark.parametrize("url", ["http://[1/a.zip", "http://:x/a.zip"])
def test_an_address_with_an_invalid_host(url, target):
    with pytest.raises(InputError, match=re.escape(url)):
        make(url, target)


def test_no_server(target):
    with pytest.raises(ServiceError, match=r"http://127\.0\.0\.1:9/a\.zip"):
        make("http://127.0.0.1:9/a.zip", target)


@pytest.mark.parametrize("statuses", [[302] * 9, [403]])
def test_errors_contain_no_secret_of_an_address(statuses, server, target):
    server.statuses = statuses
    server.headers = {"Location": "http://me:other-word@127.0.0.1:9/x.tar?X-Amz-Signature=third-word"}
    url = server.url.replace("://", "://me:one-word@") + "&token=fourth-word#fifth-word"
    with pytest.raises(ExplainedError, match=r"http://127\.0\.0\.1:") as caught:
        make(url, target)
    # As a notebook shows it, with all causes.
    shown = "".join(traceback.format_exception(caught.value))
    assert [word for word in ("one", "other", "third", "fourth", "fifth") if f"{word}-word" in shown] == []


def test_a_user_and_a_password_are_sent(server, target):
    assert make(server.url.replace("://", "://me:p@ss word@"), target)
    assert server.authorizations == ["Basic " + base64.b64encode(b"me:p@ss word").decode()]


def test_a_missing_file_of_certificates_is_no_full_disk(target, monkeypatch, tmp_path):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "absent.pem"))
    with pytest.raises(InputError, match=r"cannot download https://127\.0\.0\.1:9/a\.zip.*absent\.pem") as caught:
        make("https://127.0.0.1:9/a.zip", target)
    assert "LANCE_PIPELINE_DATA" not in str(caught.value)
