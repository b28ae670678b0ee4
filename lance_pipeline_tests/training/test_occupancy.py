"""Real processes that compete for the same devices: which one waits, for which, and what ends the wait."""

import json
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from lance_pipeline.errors import Stopped
from lance_pipeline.training.occupancy import acquire_device
from lance_pipeline_tests.processes import processor_seconds

ONE = {"cpu": "cpu"}
TWO = {"cuda:0": "cuda-11aa", "cuda:1": "cuda-22bb"}

# Prints its waiting messages, then the device, which it holds until its input ends.
TRAINING = """
import json, sys
from lance_pipeline.training.occupancy import acquire_device

def log_line(text):
    print(text, flush=True)

with acquire_device(json.loads(sys.argv[1]), *sys.argv[2:], on_wait=log_line) as device:
    log_line(device)
    sys.stdin.read()
"""


class Training:
    """A process that trains on a device."""

    def __init__(self, devices: Mapping[str, str], what: str, run_id: str = "") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", TRAINING, json.dumps(devices), what, run_id],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def next_line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def end(self) -> str:
        """Let the process end; returns its remaining output."""
        said, _ = self.process.communicate(timeout=60)
        assert self.process.returncode == 0
        return said.strip()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(autouse=True)
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A separate runtime folder, so that these tests and their processes see no other locks."""
    folder = tmp_path / "runtime"
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    return folder / "lance-pipeline"


@pytest.fixture
def train() -> Iterator[type[Training]]:
    """The class that starts trainings; all of them are ended afterwards."""
    with ExitStack() as stack:

        class Started(Training):
            def __init__(self, devices: Mapping[str, str], what: str, run_id: str = "") -> None:
                super().__init__(devices, what, run_id)
                stack.callback(self.kill)

        yield Started


def unasked(text: str) -> None:
    raise AssertionError(text)


def test_the_second_waits_says_for_whom_and_follows(train):
    first = train(ONE, "digits/resnet34", "1a2b3c4d-5e6f")
    assert first.next_line() == "cpu"
    second = train(ONE, "flowers/resnet34")
    waiting = second.next_line()
    assert "cpu" in waiting
    assert "digits/resnet34 (run 1a2b3c4d, process " in waiting
    assert f"process {first.process.pid}, since " in waiting
    first.end()
    assert second.next_line() == "cpu"
    assert second.end() == ""


def test_a_killed_training_leaves_its_device(train):
    first = train(ONE, "digits/resnet34")
    assert first.next_line() == "cpu"
    second = train(ONE, "flowers/resnet34")
    assert "digits/resnet34 (process" in second.next_line()
    os.kill(first.process.pid, signal.SIGKILL)
    assert second.next_line() == "cpu"
    assert "flowers/resnet34 (" in train(ONE, "cinic10/resnet34").next_line()


def test_the_first_free_device_is_taken(train):
    first = train(TWO, "a/resnet34")
    assert first.next_line() == "cuda:0"
    second = train(TWO, "b/resnet34")
    assert second.next_line() == "cuda:1"
    third = train(TWO, "c/resnet34")
    waiting = third.next_line()
    assert re.search(rf"cuda:0.*a/resnet34 \(process {first.process.pid}, ", waiting)
    assert re.search(rf"cuda:1.*b/resnet34 \(process {second.process.pid}, ", waiting)
    second.end()
    assert third.next_line() == "cuda:1"


def test_devices_that_others_do_not_want_are_free():
    with (
        acquire_device({"cuda:0": "cuda-11aa"}, "a", on_wait=unasked),
        acquire_device({"cuda:0": "cuda-22bb"}, "b", on_wait=unasked) as device,
    ):
        assert device == "cuda:0"


def test_a_card_is_one_whatever_its_number(train):
    with acquire_device({"cuda:1": "cuda-22bb"}, "a/resnet34", on_wait=unasked):
        assert "a/resnet34 (" in train({"cuda:0": "cuda-22bb"}, "b/resnet34").next_line()


def test_another_holder_is_told_once(train):
    with acquire_device(ONE, "a/resnet34", on_wait=unasked):
        waiting = train(ONE, "c/resnet34")
        assert "a/resnet34 (" in waiting.next_line()
        # Stopped, so that it cannot acquire the device between the two contexts.
        os.kill(waiting.process.pid, signal.SIGSTOP)
    with acquire_device(ONE, "b/resnet34", on_wait=unasked):
        os.kill(waiting.process.pid, signal.SIGCONT)
        assert "b/resnet34 (" in waiting.next_line()
        time.sleep(1.2)  # time for two more polls, which must print nothing
    assert waiting.next_line() == "cpu"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only Linux tells the processor time of others")
def test_waiting_costs_next_to_no_processor_time(train):
    with acquire_device(ONE, "a/resnet34", on_wait=unasked):
        waiting = train(ONE, "b/resnet34")
        assert "a/resnet34 (" in waiting.next_line()
        before = processor_seconds(waiting.process.pid)
        time.sleep(2)
        assert processor_seconds(waiting.process.pid) - before < 0.3


def test_whoever_waits_can_be_stopped(train):
    training = train(ONE, "digits/resnet34")
    assert training.next_line() == "cpu"
    told: list[str] = []
    with (
        pytest.raises(Stopped, match="stopped: SIGTERM") as caught,
        acquire_device(ONE, "flowers/resnet34", on_wait=told.append, stop=lambda: "SIGTERM" if told else None),
    ):
        raise AssertionError
    assert caught.value.reason == "SIGTERM"
    assert len(told) == 1
    training.end()
    with acquire_device(ONE, "flowers/resnet34", on_wait=unasked) as device:
        assert device == "cpu"


def test_threads_of_one_process_wait_for_each_other():
    told, had = threading.Event(), threading.Event()

    def wait() -> None:
        with acquire_device(ONE, "b/resnet34", on_wait=lambda text: told.set()):
            had.set()

    thread = threading.Thread(target=wait)
    with acquire_device(ONE, "a/resnet34", on_wait=unasked):
        thread.start()
        assert told.wait(30)
        assert not had.is_set()
    thread.join(30)
    assert had.is_set()


def test_the_files_are_the_users_alone(locks):
    with acquire_device(ONE, "a/resnet34", on_wait=unasked):
        assert [path.name for path in locks.iterdir()] == ["cpu.lock"]
        assert [stat.S_IMODE(path.stat().st_mode) for path in (locks, locks / "cpu.lock")] == [0o700, 0o600]


def test_a_failed_training_leaves_its_device():
    with pytest.raises(ZeroDivisionError), acquire_device(ONE, "a/resnet34", on_wait=unasked):
        raise ZeroDivisionError
    with acquire_device(ONE, "b/resnet34", on_wait=unasked) as device:
        assert device == "cpu"


def test_a_note_that_says_nothing(train, locks):
    with acquire_device(ONE, "a/resnet34", on_wait=unasked):
        (locks / "cpu.lock").write_text('{"what": ')
        assert train(ONE, "b/resnet34").next_line() == "waiting for cpu, held by another process"
