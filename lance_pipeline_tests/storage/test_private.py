"""Lock files and their folders, if another user was there first."""

import fcntl
import os
import shutil
import signal
import stat
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lance_pipeline.errors import InputError
from lance_pipeline.storage.locking import read_note, try_lock
from lance_pipeline.storage.private import make_private, open_private, restrict_tree, user_folder
from lance_pipeline.storage.table_lock import lock_path, locked
from lance_pipeline.training.occupancy import acquire_device
from lance_pipeline_tests.browser.launcher import await_condition

SOMEBODY = 12345
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can create files of other users")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def link(path: Path) -> None:
    victim = path.with_name("victim")
    victim.write_text("valuable")
    path.symlink_to(victim)


def dangling_link(path: Path) -> None:
    path.symlink_to(path.with_name("planted"))


def folder(path: Path) -> None:
    path.mkdir()


def fifo(path: Path) -> None:
    os.mkfifo(path)


def foreign(path: Path) -> None:
    path.touch(mode=0o666)
    os.chown(path, SOMEBODY, SOMEBODY)


PLANTED = [link, dangling_link, folder, fifo, pytest.param(foreign, marks=as_root)]


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A runtime folder owned by the user."""
    folder = tmp_path / "runtime"
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    return folder


def on_wait(text: str) -> None:
    raise AssertionError(text)


@pytest.mark.parametrize("plant", PLANTED)
def test_a_planted_device_lock_is_named_and_untouched(plant: Callable[[Path], None], runtime: Path):
    path = make_private(runtime / "lance-pipeline") / "cpu.lock"
    plant(path)
    with pytest.raises(InputError, match=str(path)), acquire_device({"cpu": "cpu"}, "a/resnet34", on_wait=on_wait):
        raise AssertionError
    assert not (path.parent / "planted").exists()
    if plant is link:
        assert (path.parent / "victim").read_text() == "valuable"


@pytest.mark.parametrize("plant", PLANTED)
def test_a_planted_dataset_lock_is_named_and_untouched(plant: Callable[[Path], None], tmp_path: Path):
    uri = str(tmp_path / "train.lance")
    plant(Path(lock_path(uri)))
    with pytest.raises(InputError, match=lock_path(uri)), locked([uri], on_wait):
        raise AssertionError
    assert not (tmp_path / "planted").exists()


def as_user(number: int, act: Callable[[], object]) -> int:
    """Call ``act`` in a forked process of that user; returns its process id."""
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setgid(number)
            os.setuid(number)
            act()
        finally:
            os._exit(0)
    return child


@as_root
def test_another_users_lock_in_a_sticky_folder_is_refused_without_waiting():
    """Also for users whom the kernel denies the file, and who only see that it is locked."""
    shared = Path(tempfile.mkdtemp(dir="/tmp"))
    shared.chmod(0o1777)
    path, report = shared / ".train.lance.lock", shared / "report"
    report.touch(mode=0o666)
    report.chmod(0o666)

    def hold() -> None:
        with path.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            report.write_text("locked")
            time.sleep(60)

    def attempt() -> None:
        try:
            try_lock(path, "LANCE_PIPELINE_DATA")
        except InputError as error:
            report.write_text(str(error))

    holder = as_user(SOMEBODY, hold)
    try:
        await_condition(lambda: report.read_text() == "locked", 30, "the lock is held")
        with pytest.raises(InputError, match=str(path)):
            try_lock(path, "LANCE_PIPELINE_DATA")
        os.waitpid(as_user(SOMEBODY + 1, attempt), 0)
        assert report.read_text().startswith(str(path))
    finally:
        os.kill(holder, signal.SIGKILL)
        os.waitpid(holder, 0)
        shutil.rmtree(shared)


def test_a_lock_is_private_to_its_user_under_any_umask(tmp_path: Path):
    before = os.umask(0)
    try:
        lock = try_lock(tmp_path / "a.lock", "HERE")
    finally:
        os.umask(before)
    assert lock is not None
    assert mode(tmp_path / "a.lock") == 0o600
    assert try_lock(tmp_path / "a.lock", "HERE") is None
    lock.note("me")
    assert read_note(str(tmp_path / "a.lock")) == "me"
    lock.release()
    # As earlier versions created it.
    (tmp_path / "a.lock").chmod(0o666)
    os.close(open_private(tmp_path / "a.lock"))
    assert mode(tmp_path / "a.lock") == 0o600


@as_root
def test_a_group_that_shares_a_folder_shares_its_locks(tmp_path: Path):
    os.chown(tmp_path, SOMEBODY, SOMEBODY)
    tmp_path.chmod(0o2770)
    lock = try_lock(tmp_path / "a.lock", "HERE")
    assert lock is not None
    lock.release()
    assert mode(tmp_path / "a.lock") == 0o660
    assert (tmp_path / "a.lock").stat().st_gid == SOMEBODY
    os.chown(tmp_path / "a.lock", SOMEBODY + 1, SOMEBODY)
    os.close(open_private(tmp_path / "a.lock"))


def test_a_lock_whose_file_was_removed_excludes_nobody(tmp_path: Path):
    path = tmp_path / "a.lock"
    first = try_lock(path, "HERE")
    path.unlink()
    second = try_lock(path, "HERE")
    assert first is not None
    assert second is not None
    assert try_lock(path, "HERE") is None


def test_the_lock_folder_is_private_to_its_user(runtime: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    assert user_folder() == runtime / "lance-pipeline"
    assert mode(user_folder()) == 0o700
    user_folder().chmod(0o777)
    assert mode(user_folder()) == 0o700
    # It does not depend on these.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("LANCE_PIPELINE_DATA", str(tmp_path / "data"))
    assert user_folder() == runtime / "lance-pipeline"


def open_to_all(runtime: Path) -> None:
    runtime.chmod(0o755)


def somebody_elses(runtime: Path) -> None:
    os.chown(runtime, SOMEBODY, SOMEBODY)


def a_link_in_its_place(runtime: Path) -> None:
    (runtime / "planted").mkdir()
    (runtime / "lance-pipeline").symlink_to(runtime / "planted")


@pytest.mark.parametrize("spoil", [open_to_all, pytest.param(somebody_elses, marks=as_root), a_link_in_its_place])
def test_an_insecure_runtime_folder_is_skipped(
    spoil: Callable[[Path], None], runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    spoil(runtime)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    folder = user_folder()
    assert not folder.is_relative_to(runtime)
    assert mode(folder) == 0o700
    assert not list(runtime.rglob("*.lock"))


@as_root
def test_an_unusable_lock_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", "")
    monkeypatch.setenv("HOME", str(tmp_path / "missing"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    if Path(f"/run/user/{os.geteuid()}").exists():
        pytest.skip("this host has a runtime folder")
    assert user_folder() == tmp_path / f"lance-pipeline-{os.geteuid()}"
    os.chown(user_folder(), SOMEBODY, SOMEBODY)
    with pytest.raises(InputError, match=rf"{tmp_path}/lance-pipeline-.*XDG_RUNTIME_DIR"):
        user_folder()


def test_a_tree_is_restricted_without_following_links(tmp_path: Path):
    outside = tmp_path / "outside"
    outside.mkdir()
    # Independent of the umask.
    outside.chmod(0o755)
    tree = tmp_path / "tree"
    (tree / "inner").mkdir(parents=True)
    (tree / "inner" / "file").touch(mode=0o644)
    (tree / "link").symlink_to(outside)
    restrict_tree(tree)
    assert [mode(path) for path in (tree, tree / "inner", tree / "inner" / "file")] == [0o700, 0o700, 0o600]
    assert mode(outside) == 0o755


def test_an_unusable_lock_file_is_refused_without_waiting(tmp_path: Path):
    (tmp_path / "file").touch()
    began = time.monotonic()
    with pytest.raises(InputError, match=r"file/a\.lock.*HERE"):
        try_lock(tmp_path / "file" / "a.lock", "HERE")
    assert time.monotonic() - began < 5
