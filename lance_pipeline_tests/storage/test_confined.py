"""Nothing outside of a root is opened, with and without openat2, while other threads replace folders by links."""

import ctypes
import errno
import os
import re
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lance_pipeline.storage import confined
from lance_pipeline.storage.confined import ConfinedFolder, LinkError, open_below

WAYS = ["openat2", "component by component"]
PATHS = st.lists(st.sampled_from([b"cat", b"dog", b"x", b"link", b"..", b".", b"", b"a\0b"]), min_size=1, max_size=5)
TARGETS = ["..", "../..", "dog", "../dog/x", "x", "/etc", "{outside}/x", "{outside}", "{root}/dog", "{root}/dog/x", "."]
# Denies openat2, like container runtimes that do not know it, then opens a file and a link.
FORBIDDEN = """
import ctypes, errno, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
number, allow, deny = 437, 0x7FFF0000, 0x00050000 | errno.EPERM
filters = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, deny), (0x06, 0, 0, allow)]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *one) for one in filters))
program = struct.pack("HxxxxxxP", len(filters), ctypes.addressof(code))
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program) == 0, os.strerror(ctypes.get_errno())
from lance_pipeline.storage import confined
assert confined._openat2 is None
with confined.ConfinedFolder(sys.argv[1]) as folder:
    print(os.read(folder.open(b"cat/x"), 99).decode())
    try:
        folder.open(b"cat/away")
    except confined.LinkError as error:
        print(error)
"""


@pytest.fixture(params=WAYS)
def way(request, monkeypatch) -> str:
    """Both ways of opening."""
    if request.param == "component by component":
        monkeypatch.setattr(confined, "_openat2", None)
    elif confined._openat2 is None:
        pytest.skip("this system has no openat2")
    return request.param


@pytest.fixture
def root(tmp_path) -> Path:
    """Two folders with a file each, and a file outside."""
    for name in ("pets/cat", "pets/dog", "private"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "x").write_text(name)
    return tmp_path / "pets"


def read(folder: ConfinedFolder, path: bytes) -> str:
    descriptor = folder.open(path)
    try:
        return os.read(descriptor, 99).decode()
    finally:
        os.close(descriptor)


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@contextmanager
def repeated(action: Callable[[], None]) -> Iterator[None]:
    """Repeat the action in a thread while the context is active."""
    done = threading.Event()

    def repeat() -> None:
        while not done.is_set():
            action()

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def exchange(one: Path, other: Path) -> None:
    """Swap two files, folders or links in one step, so that each name always exists."""
    code = ctypes.CDLL(None, use_errno=True).renameat2(-100, os.fsencode(one), -100, os.fsencode(other), 2)
    if code:
        raise OSError(ctypes.get_errno(), "renameat2")


@pytest.mark.usefixtures("way")
def test_only_links_that_stay_below_the_root_are_followed(root):
    (root / "cat" / "same").symlink_to("x")
    (root / "cat" / "sibling").symlink_to("../dog/x")
    (root / "cat" / "absolute").symlink_to(root / "dog" / "x")
    (root / "cat" / "kennel").symlink_to("../dog")
    (root / "cat" / "away").symlink_to("../../private/x")
    (root / "cat" / "far").symlink_to(root.parent / "private")
    (root / "cat" / "nowhere").symlink_to("y")
    (root / "cat" / "circle").symlink_to("circle")
    (root / "cat" / "process").symlink_to("/proc/self/root/etc/passwd")
    (root.parent / "elsewhere").symlink_to(root)
    before = open_descriptors()
    for top in (root, root.parent / "elsewhere"):
        with ConfinedFolder(str(top), "cat") as folder:
            assert read(folder, b"x") == read(folder, b"same") == "pets/cat"
            for name in (b"sibling", b"absolute", b"kennel/x"):
                assert read(folder, name) == "pets/dog"
            for name in (b"away", b"far/x", b"process"):
                with pytest.raises(LinkError, match=re.escape(str(root))):
                    folder.open(name)
            for name in (b"far", b"kennel", b"nowhere", b"circle"):
                with pytest.raises(LinkError):
                    folder.open(name)
            assert folder.status_of_target(b"absolute").st_size == len("pets/dog")
            with pytest.raises(OSError) as caught:  # noqa: PT011 - its number is checked
                folder.open_folder(b"kennel")
            assert caught.value.errno == errno.ELOOP
            for name in (b"../dog/x", b"/etc/passwd", b"x/../../../private/x"):
                with pytest.raises(LinkError):
                    folder.open(name)
            with pytest.raises(FileNotFoundError):
                folder.open(b"x\0y")
    assert open_descriptors() == before


@pytest.mark.usefixtures("way")
def test_the_folder_itself_may_be_a_link_that_stays_below_the_root(root):
    (root / "pets").symlink_to("dog")
    (root / "private").symlink_to("../private")
    with ConfinedFolder(str(root), "pets") as folder:
        assert read(folder, b"x") == "pets/dog"
    before = open_descriptors()
    with pytest.raises(LinkError, match="private"):
        ConfinedFolder(str(root), "private")
    with pytest.raises(LinkError):
        ConfinedFolder(str(root), "../private")
    with pytest.raises(FileNotFoundError):
        ConfinedFolder(str(root), "fox")
    assert open_descriptors() == before


@given(links=st.dictionaries(st.sampled_from(["cat/link", "link", "dog/link"]), st.sampled_from(TARGETS)), parts=PATHS)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_opened_files_are_below_the_root_and_both_ways_agree(links, parts, tmp_path_factory, monkeypatch):
    top = tmp_path_factory.mktemp("tree")
    for name in ("pets/cat", "pets/dog", "private"):
        (top / name).mkdir(parents=True)
        (top / name / "x").write_text(name)
    for name, target in links.items():
        (top / "pets" / name).symlink_to(target.format(root=top / "pets", outside=top / "private"))
    inside = {os.stat(top / "pets" / label / "x").st_ino for label in ("cat", "dog")}
    found, call = [], confined._openat2
    for way in (call, None):
        with monkeypatch.context() as context:
            context.setattr(confined, "_openat2", way)
            with ConfinedFolder(str(top / "pets")) as folder:
                try:
                    descriptor = folder.open(b"/".join(parts))
                except (OSError, LinkError) as error:
                    found.append(type(error) if isinstance(error, LinkError) else OSError)
                    continue
                status = os.fstat(descriptor)
                os.close(descriptor)
                assert stat.S_ISDIR(status.st_mode) or status.st_ino in inside
                found.append(status.st_ino)
    assert found[0] == found[1]


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("swapped", ["cat", "cat/x"])
@pytest.mark.parametrize("absolute", [False, True])
def test_a_path_replaced_by_a_link_while_it_is_opened_never_leaves_the_root(root, swapped, absolute):
    outside = root.parent / "private"
    target = outside / Path(swapped).relative_to("cat")
    link = root / "decoy"
    link.symlink_to(target if absolute else os.path.relpath(target, (root / swapped).parent))
    seen: dict[str, int] = {}
    deadline = time.monotonic() + 60
    with repeated(lambda: exchange(root / swapped, link)):
        while sum(seen.values()) < 1000 or not {"pets/cat", "refused"} <= seen.keys():
            assert time.monotonic() < deadline, seen
            try:
                # A new one each time, because it keeps folders open.
                with ConfinedFolder(str(root)) as folder:
                    found = read(folder, b"cat/x")
            except LinkError:
                found = "refused"
            except FileNotFoundError:
                found = "swapped"
            seen[found] = seen.get(found, 0) + 1
    assert "private" not in seen


@pytest.mark.usefixtures("way")
def test_opening_pipes_and_devices_does_not_block(root):
    os.mkfifo(root / "cat" / "pipe")
    names = [b"cat/pipe"]
    if os.getuid() == 0:
        os.mknod(root / "cat" / "zero", stat.S_IFCHR | 0o600, os.makedev(1, 5))
        names.append(b"cat/zero")
    with ConfinedFolder(str(root)) as folder:
        for name in names:
            try:
                descriptor = folder.open(name)
            except OSError:
                continue
            assert not stat.S_ISREG(os.fstat(descriptor).st_mode)
            os.close(descriptor)


@pytest.mark.usefixtures("way")
def test_a_path_longer_than_the_system_allows(root):
    parts, name = [b"cat"], b"d" * 250
    at = os.open(root / "cat", os.O_RDONLY)
    for _ in range(20):
        os.mkdir(name, dir_fd=at)
        deeper = os.open(name, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = deeper
        parts.append(name)
    os.close(os.open(b"deep", os.O_WRONLY | os.O_CREAT, dir_fd=at))
    os.symlink(b"/etc/passwd", b"away", dir_fd=at)
    os.close(at)
    try:
        before = open_descriptors()
        with ConfinedFolder(str(root)) as folder:
            os.close(folder.open_folder(b"/".join(parts)))
            os.close(folder.open(b"/".join([*parts, b"deep"])))
            with pytest.raises(LinkError):
                folder.open(b"/".join([*parts, b"away"]))
        assert open_descriptors() == before
    finally:
        subprocess.run(["rm", "-r", root / "cat"], check=True)


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's seccomp")
def test_without_openat2_files_are_opened_component_by_component(root):
    (root / "cat" / "away").symlink_to("../../private/x")
    done = subprocess.run([sys.executable, "-c", FORBIDDEN, root], capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    assert lines[0] == "pets/cat", done.stderr
    assert str(root) in lines[1]


@pytest.mark.usefixtures("way")
def test_a_file_in_the_place_of_a_folder_is_not_mistaken_for_a_link(root):
    descriptor = os.open(root, os.O_RDONLY)
    with pytest.raises(NotADirectoryError):
        open_below(descriptor, b"cat/x/y", os.O_RDONLY)
    os.close(descriptor)
