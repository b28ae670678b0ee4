from datetime import timedelta
from pathlib import Path

import lance
import pytest

from lance_pipeline.errors import InputError
from lance_pipeline.images import LanceSplit, ingest_split
from lance_pipeline.ingest.maintenance import keep_version, tidy
from lance_pipeline_tests.image_folders import write_image_folder

NOW = timedelta(0)


@pytest.fixture
def target(tmp_path) -> str:
    """A split with four versions; the last one lacks some rows of the first data file."""
    root = tmp_path / "pets"
    uri = str(tmp_path / "train.lance")
    for number in range(4):
        write_image_folder(root, {"train": {"cat": 10, "dog": 10 + number}}, seed=number)
        if number == 3:
            for path in sorted(Path(root, "train", "cat").iterdir())[:4]:
                path.unlink()
        ingest_split(str(root), "train", uri)
    assert lance.dataset(uri).version == 4
    return uri


def test_old_versions_are_removed_and_the_content_stays(target, tmp_path):
    before = LanceSplit(target)
    rows = before.to_table().sort_by("path")
    tidied = tidy(target, NOW)
    after = LanceSplit(target)
    assert after.to_table().sort_by("path") == rows
    assert after.facts == before.facts
    assert (tidied.versions_before, tidied.versions, tidied.data_files) == (4, 1, 1)
    assert tidied.bytes_removed > 0
    assert sum(fragment.num_deletions for fragment in after.dataset.get_fragments()) == 0
    report = ingest_split(str(tmp_path / "pets"), "train", target)
    assert (report.version, report.added, report.removed) == (after.version, 0, 0)


def test_tagged_version_is_kept(target):
    rows = LanceSplit(target, 2).to_table()
    keep_version(target, 2, "trained.run 1 / ü")
    keep_version(target, 2, "trained.run 1 / ü")
    for _ in range(2):
        tidy(target, NOW)
    assert LanceSplit(target, 2).to_table() == rows
    with pytest.raises(InputError, match="version 3"):
        LanceSplit(target, 3)


def test_tag_moves_to_the_latest_version_of_its_name(target):
    keep_version(target, 2, "latest")
    keep_version(target, 3, "latest")
    tidy(target, NOW)
    assert len(LanceSplit(target, 3))
    with pytest.raises(InputError, match="version 2"):
        LanceSplit(target, 2)


def test_recent_versions_are_kept(target):
    assert tidy(target, timedelta(days=1)).versions >= 4
    assert len(LanceSplit(target, 1)) == 20


def test_nothing_is_done_while_an_interrupted_ingest_is_unfinished(target, tmp_path):
    seen = tmp_path / "train_seen"
    (seen / "started").write_bytes(b"")
    tidied = tidy(target, NOW, str(seen))
    assert (tidied.versions, "interrupted" in tidied.note) == (4, True)


def test_missing_version_cannot_be_tagged(target):
    with pytest.raises(InputError, match="version 9"):
        keep_version(target, 9, "x")
