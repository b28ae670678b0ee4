"""Sets of files as other versions wrote them, to read from and write to."""

import contextlib
import shutil
from pathlib import Path

import pytest

from lance_pipeline_tests.formats.write import keep_addresses_relative, set_times, write_set

SETS = sorted(path for path in Path(__file__).parent.iterdir() if path.name.isdigit())


@pytest.fixture(scope="session")
def current_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set written by this version."""
    folder = tmp_path_factory.mktemp("formats")
    with contextlib.chdir(folder):
        write_set()
    return folder


@pytest.fixture(params=[*(path.name for path in SETS), "current"])
def files(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of each set as the working folder, because its addresses are relative."""
    name = request.param
    source = request.getfixturevalue("current_set") if name == "current" else Path(__file__).with_name(name)
    return _copied(source, tmp_path / "set", monkeypatch)


@pytest.fixture
def first_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the first set as the working folder."""
    return _copied(SETS[0], tmp_path / "set", monkeypatch)


def _copied(source: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(source, folder)
    monkeypatch.chdir(folder)
    keep_addresses_relative(monkeypatch)
    set_times()
    return folder
