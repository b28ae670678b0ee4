"""A file is replaced as a whole or left unchanged."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lance_pipeline.storage.whole_files import whole_file, write_whole


def test_a_file_is_replaced_at_the_end(tmp_path):
    path = tmp_path / "deep" / "file"
    write_whole(path, b"one")
    with whole_file(path) as work:
        with open(work, "wb") as file:
            file.write(b"two")
        assert path.read_bytes() == b"one"
    assert path.read_bytes() == b"two"
    assert os.listdir(path.parent) == ["file"]


@pytest.mark.parametrize("where", ["writing", "checking"])
def test_an_error_leaves_the_existing_file(tmp_path, where):
    path = tmp_path / "file"
    write_whole(path, b"one")

    def write() -> None:
        with whole_file(path, check) as work:
            Path(work).write_bytes(b"two")
            if where == "writing":
                raise ValueError(where)

    def check(work: str) -> None:
        assert Path(work).read_bytes() == b"two"
        raise ValueError(where)

    with pytest.raises(ValueError, match=where):
        write()
    assert (os.listdir(tmp_path), path.read_bytes()) == (["file"], b"one")


def test_a_full_disk_leaves_the_existing_file(small_disk):
    folder = small_disk("1m")
    write_whole(folder / "file", b"one")
    with pytest.raises(OSError) as caught:  # noqa: PT011 - its number is checked
        write_whole(folder / "file", bytes(1 << 21))
    assert caught.value.errno == errno.ENOSPC
    assert (os.listdir(folder), (folder / "file").read_bytes()) == (["file"], b"one")


SCRIPT = """
import sys
from lance_pipeline.storage.whole_files import write_whole
for number in range(10**6):
    write_whole(sys.argv[1], bytes([number % 251]) * (1 << 20))
"""


def test_a_killed_writer_leaves_a_whole_file(tmp_path):
    path = tmp_path / "file"
    for number in range(5):
        process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(path)])
        time.sleep(0.4 + number / 50)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if path.exists():
            data = path.read_bytes()
            assert (len(data), len(set(data))) == (1 << 20, 1)
    assert path.exists()
