"""After a kill, a race or a full disk the previous version is intact, and the next run gives the right rows."""

import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import lance
import numpy as np
import pytest

from lance_pipeline.errors import InputError
from lance_pipeline.images import LanceSplit, ingest_split
from lance_pipeline.ingest import crew, intake
from lance_pipeline.ingest.fragments import FragmentWriter
from lance_pipeline.ingest.ingestion import Watch
from lance_pipeline.ingest.quarantine import Limits, rejected_uri
from lance_pipeline.storage.table_lock import locked
from lance_pipeline_tests.image_folders import class_image, encoded, write_image_folder
from lance_pipeline_tests.ingest.test_increments import ingest_fractions

COUNTS = {"train": {"cat": 300, "dog": 300}}
# Steps have few files, so that a kill leaves some finished and some not.
INGEST = """
import sys
from lance_pipeline.ingest.ingestion import Watch
from lance_pipeline.ingest import crew
from lance_pipeline.ingest import intake
intake.STEP_SECONDS, crew._TASK_FILES = 0.0, 40
from lance_pipeline.images import ingest_split
print("ready", flush=True)
report = ingest_split(sys.argv[1], "train", sys.argv[2])
print(report.rows, report.added, report.removed, flush=True)
"""


def age_files(root: str) -> str:
    """Give the files old mtimes, so that they are trusted and not read again; returns the folder."""
    for path in Path(root).rglob("*.png"):
        os.utime(path, (10**9, 10**9))
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> str:
    return age_files(write_image_folder(tmp_path_factory.mktemp("raw"), COUNTS))


@pytest.fixture
def target(tmp_path) -> str:
    return str(tmp_path / "lance" / "train.lance")


def start(root: str, target: str) -> subprocess.Popen[str]:
    """Start an ingest in another process; returns once all imports are done."""
    process = subprocess.Popen([sys.executable, "-c", INGEST, root, target], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def contents(target: str) -> dict[str, bytes]:
    table = LanceSplit(target).to_table(["path", "image"])
    rows = dict(zip(table["path"].to_pylist(), table["image"].to_pylist(), strict=True))
    assert len(rows) == len(table)
    return rows


def files_below(folder: str) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*.png")}


def orphans(target: str) -> set[str]:
    """Data and deletion files that belong to no version."""
    there = {f"{kind}/{name}" for kind in ("data", "_deletions") for name in _names_in(Path(target, kind))}
    used = set()
    for version in lance.dataset(target).versions():
        for fragment in lance.dataset(target, version=version["version"]).get_fragments():
            used |= {f"data/{file.path}" for file in fragment.metadata.files}
            if (deletions := fragment.metadata.deletion_file) is not None:
                used.add(deletions.path(fragment.fragment_id))
    return there - used


def _names_in(folder: Path) -> list[str]:
    return os.listdir(folder) if folder.is_dir() else []


def test_first_ingest_resumes_after_kills_at_any_moment(root, target):
    """Each run is killed a little later than the one before, until one finishes."""
    generator, kills = random.Random(0), 0
    for attempt in range(60):
        process = start(root, target)
        time.sleep(generator.uniform(0, 0.02 + 0.02 * attempt))
        process.send_signal(signal.SIGKILL)
        output = process.communicate()[0]
        kills += process.returncode == -signal.SIGKILL and not output
        if output:
            break
    assert kills >= 3
    report = ingest_split(root, "train", target)
    assert (report.rows, report.version) == (600, 1)
    assert contents(target) == files_below(f"{root}/train")
    assert orphans(target) == set()
    again = ingest_split(root, "train", target)
    assert (again.version, again.added, again.removed) == (1, 0, 0)


def test_finished_steps_are_not_repeated(root, target, monkeypatch):
    monkeypatch.setattr(intake, "STEP_SECONDS", 0.0)
    monkeypatch.setattr(crew, "_TASK_FILES", 40)

    class Stop(BaseException):
        pass

    def stop_halfway(done: int, total: int) -> None:
        if done > total / 3:
            raise Stop

    with pytest.raises(Stop):
        ingest_split(root, "train", target, watch=Watch(progress=stop_halfway))
    totals: list[int] = []
    report = ingest_split(root, "train", target, watch=Watch(progress=lambda done, total: totals.append(total)))
    assert totals[-1] < 600 - 200 + 40
    assert (report.rows, report.added, report.version) == (600, 600, 1)
    assert contents(target) == files_below(f"{root}/train")
    assert orphans(target) == set()


def test_one_split_ingested_after_an_interruption_keeps_the_work_of_the_others(tmp_path, monkeypatch):
    """Each of three drawn splits resumes its own part of an interrupted pass."""
    root = age_files(write_image_folder(tmp_path / "pets", {"": {"cat": 95, "dog": 95}}))
    monkeypatch.setattr(intake, "STEP_SECONDS", 0.0)
    monkeypatch.setattr(crew, "_TASK_FILES", 20)
    stopped_at: list[int] = []

    class Stop(BaseException):
        pass

    def stop_late(done: int, total: int) -> None:
        if done > total / 2:
            stopped_at.append(done)
            raise Stop

    with pytest.raises(Stop):
        ingest_fractions(root, tmp_path, watch=Watch(progress=stop_late))
    read: list[int] = []
    for split in ("val", "train", "test"):
        ingest_fractions(root, tmp_path, (split,), watch=Watch(progress=lambda done, total: read.append(total)))
        assert orphans(str(tmp_path / f"pets_{split}.lance")) == set()
    whole = ingest_fractions(root, tmp_path / "whole")
    again = ingest_fractions(root, tmp_path)
    assert {split: report.fingerprint for split, report in again.items()} == {
        split: report.fingerprint for split, report in whole.items()
    }
    assert max(read) <= 190 - stopped_at[0]
    assert not (tmp_path / "pets_seen" / "started").exists()


def test_files_changed_after_a_kill_are_read_again(tmp_path, target):
    root = write_image_folder(tmp_path / "raw", {"train": {"cat": 60, "dog": 60}})
    process = start(root, target)
    while not list((tmp_path / "lance").glob("train_seen/step-*")):
        time.sleep(0.001)
    process.kill()
    process.wait()
    rng = np.random.default_rng(5)
    for number in range(0, 60, 3):
        (tmp_path / "raw" / "train" / "cat" / f"{number:03d}.png").write_bytes(encoded(class_image(2, rng)))
        (tmp_path / "raw" / "train" / "dog" / f"{number:03d}.png").unlink()
    report = ingest_split(root, "train", target)
    assert report.rows == 100
    assert contents(target) == files_below(f"{root}/train")
    assert orphans(target) == set()


def test_kill_during_an_increment_keeps_the_old_version(tmp_path, target):
    root = write_image_folder(tmp_path / "raw", {"train": {"cat": 100, "dog": 100}})
    first = ingest_split(root, "train", target)
    before, generator = contents(target), random.Random(1)
    rng = np.random.default_rng(5)
    for attempt in range(12):
        for number in range(0, 100, 2):
            path = tmp_path / "raw" / "train" / "cat" / f"{number:03d}.png"
            path.write_bytes(encoded(class_image(attempt % 3, rng)))
        process = start(root, target)
        time.sleep(generator.uniform(0, 0.15))
        process.kill()
        process.communicate()
        found = contents(target)
        assert found == before or found == files_below(f"{root}/train")
        before = found
    last = ingest_split(root, "train", target)
    assert contents(target) == files_below(f"{root}/train")
    assert (last.rows, len(LanceSplit(target, first.version))) == (200, 200)
    assert orphans(target) == set()


def test_concurrent_ingests_of_one_split(root, target):
    processes = [start(root, target) for _ in range(3)]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert all(process.returncode == 0 for process in processes)
    assert sorted(outputs) == ["600 0 0\n", "600 0 0\n", "600 600 0\n"]
    assert contents(target) == files_below(f"{root}/train")
    assert lance.dataset(target).version == 1


def test_waiting_callback_gets_the_locked_dataset(tmp_path):
    uri, waited = str(tmp_path / "train.lance"), []
    with locked([uri]):
        script = f"from lance_pipeline.storage.table_lock import locked\nwith locked([{uri!r}], print): print('in')"
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        waited.append(process.stdout.readline())
    assert waited == [f"{uri}\n"]
    assert process.communicate(timeout=60)[0] == "in\n"


def test_concurrent_commit_of_another_tool_is_detected(tmp_path, target, monkeypatch):
    """Other tools and other hosts do not take the lock."""
    from lance_pipeline.ingest import ingestion as ingest
    from lance_pipeline.ingest.stored_split import StoredSplit

    root = write_image_folder(tmp_path / "raw", {"train": {"cat": 5, "dog": 5}})
    ingest_split(root, "train", target)
    (tmp_path / "raw" / "train" / "cat" / "000.png").unlink()
    commits, real = [], StoredSplit.commit

    def commit_after_a_deletion(self, *arguments):
        if not commits:
            lance.dataset(target).delete("path = 'dog/000.png'")
        commits.append(self.dataset.version)
        return real(self, *arguments)

    monkeypatch.setattr(ingest, "_ATTEMPTS", 3)
    monkeypatch.setattr(StoredSplit, "commit", commit_after_a_deletion)
    report = ingest_split(root, "train", target)
    assert commits == [1, 2]
    assert contents(target) == files_below(f"{root}/train")
    assert report.rows == 9
    monkeypatch.undo()
    rebuilt = ingest_split(root, "train", str(tmp_path / "rebuilt.lance"))
    assert (report.counts, report.fingerprint, report.channels) == (
        rebuilt.counts,
        rebuilt.fingerprint,
        rebuilt.channels,
    )


def test_full_disk_leaves_the_previous_version(tmp_path, small_disk):
    rng = np.random.default_rng(0)
    root = write_image_folder(tmp_path / "raw", {"train": {"cat": 20, "dog": 20}})
    target = str(small_disk("3m") / "train.lance")
    first = ingest_split(root, "train", target)
    before = contents(target)
    for number in range(12):
        path = tmp_path / "raw" / "train" / "cat" / f"big{number}.png"
        path.write_bytes(encoded(class_image(0, rng, 400)))
    with pytest.raises(InputError, match=rf"{re.escape(target)}.*space"):
        ingest_split(root, "train", target)
    assert lance.dataset(target).version == first.version
    assert contents(target) == before
    for number in range(1, 12):
        (tmp_path / "raw" / "train" / "cat" / f"big{number}.png").unlink()
    assert ingest_split(root, "train", target).rows == 41
    assert contents(target) == files_below(f"{root}/train")
    assert orphans(target) == set()


_CUT_ON_A_SMALL_DISK = """
import sys
from lance_pipeline.errors import InputError
from lance_pipeline_tests.ingest.test_increments import ingest_fractions
from pathlib import Path
try:
    ingest_fractions(sys.argv[1], Path(sys.argv[2]))
except InputError as error:
    print(error)
"""


def test_full_disk_stops_all_writers_of_a_pass(tmp_path, small_disk):
    rng = np.random.default_rng(0)
    root = write_image_folder(tmp_path / "raw", {"": {"cat": 20, "dog": 20}})
    for number in range(12):
        (tmp_path / "raw" / "cat" / f"big{number}.png").write_bytes(encoded(class_image(0, rng, 400)))
    command = [sys.executable, "-c", _CUT_ON_A_SMALL_DISK, root, str(small_disk("3m"))]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60, check=True)
    assert "pets_" in ended.stdout


def test_failed_data_file_leaves_no_writer_thread(tmp_path, monkeypatch):
    """If the data file of one of three splits fails, the writer threads of the others end too."""
    root = write_image_folder(tmp_path / "raw", {"": {"cat": 40, "dog": 40}})
    real, failed = FragmentWriter.finish, []

    def fail_once(self):
        written = real(self)
        if not failed:
            failed.append(self)
            raise InputError("the disk is full")
        return written

    monkeypatch.setattr(FragmentWriter, "finish", fail_once)
    with pytest.raises(InputError, match="the disk is full"):
        ingest_fractions(root, tmp_path)
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("fragment-writer")]


def test_leftovers_of_a_kill_are_removed(tmp_path, target):
    root = write_image_folder(tmp_path / "raw", {"train": {"cat": 30, "dog": 30}})
    (tmp_path / "raw" / "train" / "cat" / "broken.png").write_bytes(b"no image")
    ingest_split(root, "train", target, limits=Limits(max_rejected_fraction=0.5))
    quarantine = Path(rejected_uri(target))
    seen = Path(target.replace(".lance", "_seen"))
    left = [
        Path(target, "_deletions", "0-1-2.arrow.tmp"),
        quarantine / "data" / "left.lance",
        seen / "step-9.arrow.tmp",
    ]
    for file in left:
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"cut off")
    (seen / "started").touch()
    ingest_split(root, "train", target, limits=Limits(max_rejected_fraction=0.5))
    assert not [file for file in left if file.exists()]
