"""File permissions of the data folder."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from lance_pipeline.errors import InputError
from lance_pipeline.orchestration.paths import lance_root, make_folder, narrow_data, private_umask

SOMEBODY = 12345
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make folders of somebody else's")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(autouse=True)
def usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "parent" / "data"
    monkeypatch.setenv("LANCE_PIPELINE_DATA", str(folder))
    return folder


def test_a_new_data_folder_is_the_users_alone(data: Path):
    make_folder(data / "models" / "digits")
    assert [mode(path) for path in (data.parent, data, data / "models")] == [0o755, 0o700, 0o700]


def test_a_data_folder_of_an_earlier_version_is_narrowed(data: Path):
    (data / "lance").mkdir(parents=True)
    (data / "models").mkdir()
    lance_root()
    assert [mode(path) for path in (data, data / "lance")] == [0o700, 0o700]


def test_a_folder_of_other_things_keeps_its_mode(data: Path):
    (data / "photos").mkdir(parents=True)
    make_folder(data / "models")
    assert [mode(path) for path in (data, data / "photos", data / "models")] == [0o755, 0o755, 0o700]


def test_what_a_link_leads_to_keeps_its_mode(data: Path, tmp_path: Path):
    (tmp_path / "photos").mkdir()
    data.mkdir(parents=True)
    (data / "raw").symlink_to(tmp_path / "photos")
    make_folder(data / "raw" / "digits")
    assert [mode(path) for path in (data, tmp_path / "photos")] == [0o700, 0o755]


def test_a_data_folder_that_is_a_link_is_narrowed_where_it_leads(data: Path, tmp_path: Path):
    (tmp_path / "disk").mkdir()
    data.parent.mkdir()
    data.symlink_to(tmp_path / "disk")
    make_folder(data / "models")
    assert [mode(path) for path in (tmp_path / "disk", tmp_path / "disk" / "models")] == [0o700, 0o700]


def test_a_group_shares_a_folder_with_the_setgid_bit(data: Path):
    data.mkdir(parents=True)
    data.chmod(0o2770)
    make_folder(data / "models")
    assert private_umask() == 0o007
    assert [mode(path) for path in (data, data / "models")] == [0o2770, 0o2770]
    # A world-writable folder does not count as shared with a group.
    data.chmod(0o2777)
    make_folder(data / "models")
    assert private_umask() == 0o077
    assert mode(data) == 0o700


@as_root
def test_somebody_elses_folder_keeps_its_mode(data: Path):
    data.mkdir(parents=True)
    os.chown(data, SOMEBODY, SOMEBODY)
    narrow_data(data)
    assert mode(data) == 0o755
    make_folder(data / "models")
    assert mode(data / "models") == 0o700


def test_credentials_in_the_data_folders_address_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LANCE_PIPELINE_DATA", "s3://key:letmein1@bucket/data")
    with pytest.raises(InputError, match=r"s3://bucket/data.*AWS_SECRET_ACCESS_KEY") as caught:
        lance_root()
    assert "letmein1" not in str(caught.value)
