"""Many small files are shared with other processes: the same datasets come out, whatever happens to those."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from lance_pipeline.errors import InputError
from lance_pipeline.images import LanceSplit, ingest_split
from lance_pipeline.images.ingest import Watch
from lance_pipeline.images.ingestion import crew
from lance_pipeline.images.table import open_table
from lance_pipeline_tests.image_folders import class_image, encoded
from lance_pipeline_tests.images.ingestion.test_increments import ingest_fractions

FILES = 9000
WORKER = "lance_pipeline.images.ingestion.worker"
# As a user would write it: with no guard around the main part.
SCRIPT = """
import sys
from lance_pipeline.images import ingest_split
from lance_pipeline.images.ingest import Watch
print("begins", flush=True)
progress = lambda done, total: print(done, flush=True)
report = ingest_split(sys.argv[1], "train", sys.argv[2], threads=3, watch=Watch(progress))
print(report.rows, report.rejected, flush=True)
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> str:
    """Nine thousand small files, one in a hundred of them bad."""
    root = tmp_path_factory.mktemp("raw")
    for label, seed in (("cat", 0), ("dog", 1)):
        folder = root / "train" / label
        folder.mkdir(parents=True)
        images = [encoded(class_image(seed, np.random.default_rng(number), 8)) for number in range(100)]
        for number in range(FILES // 2):
            (folder / f"{number}.png").write_bytes(b"bad" if number % 100 == 7 else images[number % 100])
    return str(root)


@pytest.fixture
def target(tmp_path) -> str:
    return str(tmp_path / "train.lance")


@contextmanager
def threads_only() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as context:
        context.setattr(crew, "_PROCESS_FILES", FILES + 1)
        yield


def workers(parent: int) -> list[int]:
    """The processes that examine files for another, by their commands."""
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            command = Path(f"/proc/{entry}/cmdline").read_bytes()
            fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if WORKER.encode() in command and (not parent or int(fields[1]) == parent) and fields[0] != "Z":
            found.append(int(entry))
    return found


def start(root: str, target: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", SCRIPT, root, target]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_processes_and_threads_give_the_same_dataset(root, target, tmp_path):
    with threads_only():
        by_threads = ingest_split(root, "train", str(tmp_path / "threads.lance"))
    report = ingest_split(root, "train", target, threads=3)
    assert report.rows == FILES - 90
    for name in ("rows", "scanned", "rejected", "reasons", "fingerprint", "counts", "channels"):
        assert getattr(report, name) == getattr(by_threads, name), name
    assert LanceSplit(report.uri).to_table() == LanceSplit(by_threads.uri).to_table()
    quarantines = [open_table(one.rejected_uri).to_table() for one in (report, by_threads)]
    assert quarantines[0] == quarantines[1]


def test_processes_draw_splits_and_recognise_stored_bytes(root, tmp_path):
    folder = f"{root}/train"
    by_processes = ingest_fractions(folder, tmp_path / "processes")
    with threads_only():
        by_threads = ingest_fractions(folder, tmp_path / "threads")
    assert {split: one.fingerprint for split, one in by_processes.items()} == {
        split: one.fingerprint for split, one in by_threads.items()
    }
    for path in Path(root).rglob("*.png"):
        os.utime(path, (10**9, 10**9))
    again = ingest_fractions(folder, tmp_path / "processes")
    assert {split: one.version for split, one in again.items()} == {
        split: one.version for split, one in by_processes.items()
    }


def test_a_script_without_a_main_guard_can_use_them_and_none_stays(root, target):
    process = start(root, target)
    output, complaints = process.communicate(timeout=120)
    lines = output.split("\n")
    assert lines.count("begins") == 1
    assert lines[-2] == f"{FILES - 90} 90", complaints
    assert not workers(process.pid)


def test_a_process_that_dies_is_told_of_and_the_next_run_ends_right(root, target):
    def kill(done: int, total: int) -> None:
        # Before the first files are done no process is started.
        for pid in workers(os.getpid()) if done else []:
            os.kill(pid, signal.SIGKILL)

    with pytest.raises(InputError, match=r"ended with status -9 while .* Run again"):
        ingest_split(root, "train", target, threads=3, watch=Watch(kill))
    assert not Path(target, "_versions").exists()
    assert ingest_split(root, "train", target, threads=3).rows == FILES - 90
    assert len(list(Path(target, "data").iterdir())) == len(LanceSplit(target).dataset.get_fragments())


def test_processes_end_with_an_ingest_that_is_killed(root, target):
    process = start(root, target)
    assert process.stdout is not None
    assert process.stdout.readline() == "begins\n"
    deadline = time.monotonic() + 60
    while not (alive := workers(process.pid)):
        assert time.monotonic() < deadline
    process.kill()
    process.wait()
    while set(alive) & set(workers(0)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
