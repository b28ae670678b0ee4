"""Many small files are shared with other processes: the same datasets come out, whatever happens to those."""

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
from lance_pipeline.sources.raw_files import MAX_BYTES
from lance_pipeline.storage.tables import open_table
from lance_pipeline_tests.image_folders import class_image, encoded, write_image_folder
from lance_pipeline_tests.ingest.test_increments import ingest_fractions

FILES = 9000
CULPRIT_BYTES = 400 << 20
# More than an ingest needs, less than a file of MAX_BYTES.
LITTLE_BYTES = 700 << 20
WORKER = "lance_pipeline.ingest.worker"
# As a user would write it: with no guard around the main part.
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


def start_killing_itself(root: str, target: str) -> "subprocess.Popen[str]":
    """An ingest that is killed before it has examined anything."""
    script = SCRIPT.replace("print(done, flush=True)", "os.kill(os.getpid(), 9)")
    return subprocess.Popen([sys.executable, "-c", f"import os\n{script}", root, target], text=True)


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


def test_processes_that_are_killed_are_replaced_and_nothing_is_lost(root, target):
    warnings: list[str] = []
    killed: set[int] = set()

    def kill(done: int, total: int) -> None:
        # While they start, while they examine and while they wait.
        for pid in workers(os.getpid()):
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
def test_a_process_killed_at_any_moment_costs_no_file(root, target, seed):
    generator, done, kills = random.Random(seed), threading.Event(), 0
    warnings: list[str] = []

    def kill_one_now_and_then() -> None:
        nonlocal kills
        while not done.wait(generator.uniform(0, 2.5)):
            for pid in generator.sample(alive := workers(os.getpid()), min(1, len(alive))):
                os.kill(pid, signal.SIGKILL)
                kills += 1

    # Slowly enough for several to die, and nothing in this process: its death would end the test.
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
def test_where_no_process_can_be_started_threads_do_all(root, target, monkeypatch, python):
    warnings: list[str] = []
    monkeypatch.setattr(sys, "executable", python)
    report = ingest_split(root, "train", target, threads=3, watch=Watch(warning=warnings.append))
    assert report.rows == FILES - 90
    # It is not tried for ever.
    assert 1 <= len(warnings) <= 5
    assert "status 1" in warnings[0] or "cannot be started" in warnings[0]


def kill_readers_of(path: Path, done: threading.Event, killed: list[int]) -> None:
    """Kill each process of this one's that has the file open."""
    while not done.wait(0.002):
        for pid in workers(os.getpid()):
            with suppress(OSError):
                open_files = {os.readlink(entry.path) for entry in os.scandir(f"/proc/{pid}/fd")}
                if str(path) in open_files:
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)


def test_a_file_that_ends_its_processes_is_found_and_rejected(tmp_path, target):
    """After an ingest that was killed no file is examined in the ingest's own process."""
    root = write_image_folder(tmp_path / "pets", {"train": {"cat": 20, "dog": 20}})
    culprit = Path(root, "train", "cat", "culprit.png")
    # Reading it takes long enough to be seen.
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
    assert any("cat/culprit.png is rejected" in line for line in warnings)
    # Nothing kills now.
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


def test_a_file_for_which_there_is_not_enough_memory_does_not_end_the_ingest(tmp_path, target):
    """Not in the ingest's own process and, read there in vain, not in another; the next ingest tries again."""
    root = write_image_folder(tmp_path / "pets", {"train": {"cat": 5, "dog": 5}})
    with Path(root, "train", "cat", "culprit.png").open("wb") as file:
        file.truncate(MAX_BYTES)
    command = [sys.executable, "-c", LITTLE_MEMORY, root, target, str(LITTLE_BYTES)]
    ingest = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ingest.stdout == "10 {'corrupt': 1}\n", ingest.stderr
    assert "Memory ran out" in ingest.stderr
    assert "the next ingest tries again" in ingest.stderr


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
