"""The lock files agree with pyproject.toml and the installed packages, and name no hosts or paths."""

import re

import pytest
from packaging.utils import canonicalize_name

from lance_pipeline_tests.supply import requirements
from supply.lock import DEVELOPMENT, RUNTIME, pins


@pytest.mark.parametrize("requirement", [*requirements.RUNTIME, *requirements.INSTALL, *requirements.BUILD], ids=str)
def test_what_runs_and_what_builds_it_is_pinned_within_its_bounds(requirement):
    assert pins(RUNTIME)[canonicalize_name(requirement.name)].version in requirement.specifier


@pytest.mark.parametrize("requirement", requirements.DEVELOPMENT, ids=str)
def test_what_develops_is_pinned_within_its_bounds(requirement):
    pin = (pins(RUNTIME) | pins(DEVELOPMENT))[canonicalize_name(requirement.name)]
    assert pin.version in requirement.specifier


def test_a_package_is_pinned_in_one_file_which_the_other_includes():
    assert not pins(RUNTIME).keys() & pins(DEVELOPMENT).keys()
    assert DEVELOPMENT.read_text().startswith("-r requirements.txt\n")


def test_all_that_is_installed_on_our_behalf_is_pinned():
    runtime, development = pins(RUNTIME), pins(DEVELOPMENT)
    runs = requirements.closure([*requirements.RUNTIME, *requirements.INSTALL])
    assert runs == {name: pin.version for name, pin in runtime.items() if name in runs}
    develops = requirements.closure(requirements.DEVELOPMENT)
    assert develops == {name: pin.version for name, pin in (runtime | development).items() if name in develops}


def test_nothing_is_pinned_that_nobody_asks_for():
    here = {name for name, pin in pins(RUNTIME).items() if pin.marker is None or pin.marker.evaluate()}
    assert here == requirements.closure([*requirements.RUNTIME, *requirements.INSTALL]).keys()


@pytest.mark.parametrize("lock", [RUNTIME, DEVELOPMENT], ids=lambda path: path.name)
def test_a_lock_file_names_no_host_and_no_path(lock):
    text = lock.read_text()
    assert not re.search(r"://|\bfile:| @ |(?<![\w.-])/\w", text)
    options = {word for line in text.splitlines() for word in re.findall(r"(?<!\S)-[-\w]+", line)}
    assert options <= {"--hash", "-r"}


@pytest.mark.parametrize("line", ["six>=1.17.0 --hash=sha256:00", "six==1.17.0", "six==1.17.0 --hash=md5:00"])
def test_a_pin_without_one_version_or_without_hash_is_refused(tmp_path, line):
    lock = tmp_path / "requirements.txt"
    lock.write_text(line + "\n")
    with pytest.raises(ValueError, match=r"six"):
        pins(lock)
