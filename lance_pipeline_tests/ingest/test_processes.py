"""Many small files are examined by several processes: the dataset is the same, whatever happens to the processes."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from lance_pipeline.images import LanceSplit, ingest_split
from lance_pipeline.ingest import crew
from lance_pipeline.ingest.ingestion import Watch
from lance_pipeline.ingest.quarantine import Limits
from lance_pipeline.ingest.seen_files import SeenFiles
from lance_pipeline.sources.raw_files import MAX_BYTES
from lance_pipeline.storage.tables import open_table
from lance_pipeline_tests.image_folders import class_image, encoded, write_image_folder
from lance_pipeline_tests.ingest.test_increments import ingest_fractions

FILES = 9000
CULPRIT_BYTES = 400 << 20
# More memory than an ingest needs, less than a file of MAX_BYTES needs.
LITTLE_BYTES = 700 << 20
WORKER = "lance_pipeline.ingest.worker"
# As a user might write it: without an `if __name__ == "__main__"` guard.
SCRIPT = """
import sys
from lance_pipeline.images import ingest_split
from lance_pipeline.ingest.ingestion import Watch
print("begins", flush=True)
progress = lambda done, total: print(done, flush=True)
report = ingest_split(sys.argv[1], "train", sys.argv[2], threads=3, watch=Watch(progress))
print(report.rows, report.rejected, flush=True)
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> str:
    """Nine thousand small files, 1 % of them bad."""
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


def start_killing_itself(root: str, target: str) -> "subprocess.Popen[str]":
    """Start an ingest that is killed before it has examined a file."""
    script = SCRIPT.replace("print(done, flush=True)", "os.kill(os.getpid(), 9)")
    return subprocess.Popen([sys.executable, "-c", f"import os\n{script}", root, target], text=True)


@contextmanager
def threads_only() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as context:
        context.setattr(crew, "_PROCESS_FILES", FILES + 1)
        yield


def workers(parent: int) -> list[int]:
    """The ids of the processes that examine files for ``parent``, or for any process if it is 0."""
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


def test_processes_assign_splits_and_recognise_stored_bytes(root, tmp_path):
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


def test_script_without_a_main_guard_works_and_leaves_no_process(root, target):
    process = start(root, target)
    output, errors = process.communicate(timeout=120)
    lines = output.split("\n")
    assert lines.count("begins") == 1
    assert lines[-2] == f"{FILES - 90} 90", errors
    assert not workers(process.pid)


def test_killed_processes_are_replaced_and_no_file_is_lost(root, target):
    warnings: list[str] = []
    killed: set[int] = set()

    def kill(done: int, total: int) -> None:
        # Hits processes that are starting, examining and idle.
        for pid in workers(os.getpid()):
            with suppress(ProcessLookupError):  # it may have ended by itself
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)

    report = ingest_split(root, "train", target, threads=3, watch=Watch(kill, warning=warnings.append))
    assert (report.rows, report.rejected) == (FILES - 90, 90)
    assert report.reasons == {"not_an_image": 90}
    assert killed
    assert warnings
    assert len(list(Path(target, "data").iterdir())) == len(LanceSplit(target).dataset.get_fragments())
    assert not workers(os.getpid())


@pytest.mark.parametrize("seed", range(2))
def test_process_killed_at_any_moment_loses_no_file(root, target, seed):
    generator, done, kills = random.Random(seed), threading.Event(), 0
    warnings: list[str] = []

    def kill_one_now_and_then() -> None:
        nonlocal kills
        while not done.wait(generator.uniform(0, 2.5)):
            for pid in generator.sample(alive := workers(os.getpid()), min(1, len(alive))):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    kills += 1

    # Slow enough for several processes to be killed. This process cannot be killed, as that would end the test.
    killer = threading.Thread(target=kill_one_now_and_then)
    killer.start()
    try:
        slowly = Watch(lambda done, total: time.sleep(0.2), warning=warnings.append)
        report = ingest_split(root, "train", target, threads=3, watch=slowly)
    finally:
        done.set()
        killer.join()
    assert (report.rows, report.rejected, report.reasons) == (FILES - 90, 90, {"not_an_image": 90})
    assert kills
    assert warnings


@pytest.mark.parametrize("python", ["/bin/false", "/nowhere/python"])
def test_threads_do_all_work_if_no_process_can_be_started(root, target, monkeypatch, python):
    warnings: list[str] = []
    monkeypatch.setattr(sys, "executable", python)
    report = ingest_split(root, "train", target, threads=3, watch=Watch(warning=warnings.append))
    assert report.rows == FILES - 90
    # It gives up after a few attempts.
    assert 1 <= len(warnings) <= 5
    assert "status 1" in warnings[0] or "cannot be started" in warnings[0]


def kill_readers_of(path: Path, done: threading.Event, killed: list[int]) -> None:
    """Kill each worker of this process that has the file open."""
    while not done.wait(0.002):
        for pid in workers(os.getpid()):
            with suppress(OSError):
                open_files = {os.readlink(entry.path) for entry in os.scandir(f"/proc/{pid}/fd")}
                if str(path) in open_files:
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)


def test_file_that_crashes_its_processes_is_found_and_rejected(tmp_path, target):
    """After a killed ingest, the next one examines no file in its own process."""
    root = write_image_folder(tmp_path / "pets", {"train": {"cat": 20, "dog": 20}})
    culprit = Path(root, "train", "cat", "culprit.png")
    # Large enough that a reader is caught while reading.
    with culprit.open("wb") as file:
        file.truncate(CULPRIT_BYTES)
    process = start_killing_itself(root, target)
    assert process.wait() == -signal.SIGKILL
    warnings: list[str] = []
    killed: list[int] = []
    done = threading.Event()
    killer = threading.Thread(target=kill_readers_of, args=(culprit, done, killed))
    killer.start()
    limits = Limits(max_rejected_fraction=1)
    try:
        report = ingest_split(root, "train", target, limits=limits, watch=Watch(warning=warnings.append))
    finally:
        done.set()
        killer.join()
    assert (report.rows, report.reasons) == (40, {"corrupt": 1})
    (row,) = open_table(report.rejected_uri).to_table().to_pylist()
    assert (row["path"], row["size"]) == ("cat/culprit.png", CULPRIT_BYTES)
    assert "SIGKILL" in row["detail"]
    assert 3 <= len(killed) <= 20
    assert any("cat/culprit.png" in line for line in warnings)
    # Without the killer, the file is examined like any other.
    after = ingest_split(root, "train", target, limits=limits)
    assert (after.rows, after.reasons) == (40, {"not_an_image": 1})


LITTLE_MEMORY = """
import resource, sys
from lance_pipeline.images import ingest_split
from lance_pipeline.ingest.quarantine import Limits
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[3]),) * 2)
report = ingest_split(sys.argv[1], "train", sys.argv[2], threads=1, limits=Limits(max_rejected_fraction=1))
print(report.rows, report.reasons)
"""


def test_file_too_large_for_memory_does_not_stop_the_ingest(tmp_path, target):
    """Memory suffices neither in the ingest's own process nor in another; the file is rejected but not remembered."""
    root = write_image_folder(tmp_path / "pets", {"train": {"cat": 5, "dog": 5}})
    with Path(root, "train", "cat", "culprit.png").open("wb") as file:
        file.truncate(MAX_BYTES)
    command = [sys.executable, "-c", LITTLE_MEMORY, root, target, str(LITTLE_BYTES)]
    ingest = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ingest.stdout == "10 {'corrupt': 1}\n", ingest.stderr
    assert ingest.stderr.count("cat/culprit.png") >= 3
    seen = SeenFiles(str(tmp_path / "train_seen"))
    assert "cat/culprit.png" not in seen.load()["path"].to_pylist()


def test_processes_end_with_a_killed_ingest(root, target):
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
