import os
from pathlib import Path

import pytest

from lance_pipeline.storage.links import link_file
from lance_pipeline.storage.usage import DiskUsage, freed_by_removing

SIZE = 1 << 20


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights"
    path.write_bytes(os.urandom(SIZE))
    return path


def test_a_link_is_the_same_file(file: Path, tmp_path: Path):
    target = tmp_path / "folder" / "weights"
    for _ in range(2):
        link_file(file, target)
    assert target.samefile(file)
    assert [path.name for path in target.parent.iterdir()] == ["weights"]


def test_an_existing_target_is_replaced_and_not_written_to(file: Path, tmp_path: Path):
    target, other = tmp_path / "target", tmp_path / "other"
    target.write_text("before")
    os.link(target, other)
    link_file(file, target)
    assert other.read_text() == "before"
    assert target.samefile(file)


def test_on_another_disk_it_is_a_copy(file: Path, small_disk):
    target = small_disk("4m") / "weights"
    link_file(file, target)
    assert target.read_bytes() == file.read_bytes()
    assert not target.samefile(file)


def test_a_file_with_two_links_counts_once(file: Path, tmp_path: Path):
    os.link(file, tmp_path / "second")
    usage = DiskUsage()
    assert usage.of(file) == SIZE
    assert usage.of(tmp_path / "second") == 0
    assert DiskUsage().of(tmp_path / "nowhere") == 0


def test_a_file_is_freed_with_its_last_link(file: Path, tmp_path: Path):
    second = tmp_path / "second"
    os.link(file, second)
    assert freed_by_removing(file) == 0
    assert freed_by_removing(file, second) == SIZE
