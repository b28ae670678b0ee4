"""Damage to the seen files or the quarantine is logged and repaired by the next ingest."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import lance
import pytest

from lance_pipeline.images import IngestReport, ingest_split
from lance_pipeline.ingest.ingestion import Watch
from lance_pipeline.ingest.quarantine import Limits
from lance_pipeline_tests.image_folders import write_image_folder


def _flip(data: bytes, place: float) -> bytes:
    at = int(place * (len(data) - 1))
    return data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :]


DAMAGES: Mapping[str, Callable[[bytes], bytes] | None] = {
    "cut": lambda data: data[: len(data) // 2],
    "zero": lambda data: bytes(len(data)),
    "empty": lambda data: b"",
    "delete": None,
} | {f"flip {place}": partial(_flip, place=place / 11) for place in range(12)}
LIMITS = Limits(max_rejected_fraction=0.5)


@pytest.fixture
def ingested(tmp_path) -> IngestReport:
    write_image_folder(tmp_path / "raw", {"train": {"cat": 3, "dog": 3}})
    (tmp_path / "raw" / "train" / "cat" / "broken.png").write_bytes(b"no image")
    return ingest_split(str(tmp_path / "raw"), "train", str(tmp_path / "train.lance"), limits=LIMITS)


def damage_files(folder: Path, pattern: str, damage: str) -> Path:
    """Damage the files that match a pattern; returns the last one."""
    paths = sorted(folder.glob(pattern))
    for path in paths:
        if change := DAMAGES[damage]:
            path.write_bytes(change(path.read_bytes()))
        else:
            path.unlink()
    return paths[-1]


@pytest.mark.parametrize("damage", DAMAGES)
def test_files_of_a_damaged_step_are_read_again(ingested, tmp_path, damage, caplog):
    path = damage_files(tmp_path, "train_seen/step-*", damage)
    read = []
    watch = Watch(progress=lambda done, total: read.append(total))
    again = ingest_split(str(tmp_path / "raw"), "train", ingested.uri, limits=LIMITS, watch=watch)
    assert (again.version, again.rows, again.rejected, read[0]) == (1, 6, 1, 7)
    assert (str(path) in caplog.text) == (damage != "delete")


@pytest.mark.parametrize("part", ["data/*.lance", "_versions/*.manifest"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_quarantine_is_replaced(ingested, tmp_path, damage, part, caplog):
    expected = lance.dataset(ingested.rejected_uri).to_table()
    damage_files(tmp_path, f"train_rejected.lance/{part}", damage)
    again = ingest_split(str(tmp_path / "raw"), "train", ingested.uri, limits=LIMITS)
    assert lance.dataset(again.rejected_uri, again.rejected_version).to_table() == expected
    # Some flipped bits are not significant.
    aside = Path(f"{again.rejected_uri}.damaged-1")
    assert aside.exists() or damage.startswith("flip")
    assert aside.exists() == (str(aside) in caplog.text)
