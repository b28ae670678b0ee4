"""A derived column is added to splits that are already stored."""

import os
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest

from lance_pipeline.images import ImageLoader, LanceSplit, Watch, ingest_split
from lance_pipeline.imaging import derived_columns
from lance_pipeline.imaging.derived_columns import DerivedColumn
from lance_pipeline.ingest.repair import repair_from_versions
from lance_pipeline.ingest.seen_files import SeenFiles
from lance_pipeline.storage.tables import commit_table, open_table
from lance_pipeline.storage.verification import verify_rows
from lance_pipeline_tests.image_folders import write_image_folder
from lance_pipeline_tests.storage.test_verification import flip_image

BYTES = DerivedColumn(
    pa.field("bytes_per_pixel", pa.float64(), nullable=False, metadata={"description": "Of the file"}),
    ("image", "width", "height"),
    lambda rows: pa.array(
        np.array([len(image.as_buffer()) for image in rows["image"]]) / (rows["width"].to_numpy() * rows["height"])
    ),
)


@pytest.fixture
def root(tmp_path: Path) -> str:
    root = write_image_folder(tmp_path / "raw", {"train": {"cat": 5, "dog": 4}})
    for path in Path(root).rglob("*.png"):
        # Recently changed files would be read again, even with an unchanged mtime.
        os.utime(path, (1e9, 1e9))
    return root


def expected(split: LanceSplit) -> list[float]:
    rows = split.to_table(["image", "width", "height"]).to_pylist()
    return [len(row["image"]) / (row["width"] * row["height"]) for row in rows]


def test_new_column_is_added_without_reading_files(root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    uri, read = str(tmp_path / "train.lance"), []
    (tmp_path / "raw" / "train" / "cat" / "000.png").rename(tmp_path / "held_back.png")
    first = ingest_split(root, "train", uri)
    # Gives a fragment with deleted rows, and one from a later version.
    (tmp_path / "held_back.png").rename(tmp_path / "raw" / "train" / "cat" / "000.png")
    (tmp_path / "raw" / "train" / "dog" / "000.png").unlink()
    second = ingest_split(root, "train", uri)
    monkeypatch.setattr(derived_columns, "DERIVED_COLUMNS", (BYTES,))
    third = ingest_split(root, "train", uri, watch=Watch(progress=lambda done, total: read.append(total)))
    assert (third.added, third.removed, sum(read)) == (0, 0, 0)
    assert third.fingerprint == second.fingerprint
    split = LanceSplit(uri)
    assert split.to_table(["bytes_per_pixel"])["bytes_per_pixel"].to_pylist() == expected(split)
    assert split.dataset.schema.field("bytes_per_pixel").metadata == {b"description": b"Of the file"}
    assert verify_rows(split.dataset).passed
    # Earlier versions are unchanged, for the models trained on them.
    assert "bytes_per_pixel" not in LanceSplit(uri, first.version, first.fingerprint).dataset.schema.names
    assert sum(len(labels) for _, labels in ImageLoader(uri, batch_size=4, image_size=8, training=False)) == third.rows


def test_new_rows_have_the_column(root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    uri = str(tmp_path / "train.lance")
    monkeypatch.setattr(derived_columns, "DERIVED_COLUMNS", (BYTES,))
    ingest_split(root, "train", uri)
    write_image_folder(root, {"train": {"emu": 3}})
    assert ingest_split(root, "train", uri).added == 3
    split = LanceSplit(uri)
    assert split.to_table(["bytes_per_pixel"])["bytes_per_pixel"].to_pylist() == expected(split)


def test_files_of_an_interrupted_ingest_get_the_column_too(root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    uri = str(tmp_path / "train.lance")
    ingest_split(root, "train", uri)
    write_image_folder(root, {"train": {"emu": 3}})
    with monkeypatch.context() as context:
        context.setattr("lance_pipeline.ingest.ingestion._commit_split", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            ingest_split(root, "train", uri)
    # Otherwise another process, without the patched columns, would examine the files.
    SeenFiles(str(tmp_path / "train_seen")).mark_stopped()
    monkeypatch.setattr(derived_columns, "DERIVED_COLUMNS", (BYTES,))
    assert ingest_split(root, "train", uri).rows == 12
    split = LanceSplit(uri)
    assert split.to_table(["bytes_per_pixel"])["bytes_per_pixel"].to_pylist() == expected(split)
    assert lance.dataset(uri).count_rows() == 12


@pytest.mark.parametrize("columns", [(), (BYTES,)], ids=["missing", "stored"])
def test_damaged_rows_are_repaired_from_their_files(
    columns: tuple[DerivedColumn, ...], root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    uri = str(tmp_path / "train.lance")
    monkeypatch.setattr(derived_columns, "DERIVED_COLUMNS", columns)
    ingest_split(root, "train", uri)
    flip_image(Path(uri), "dog/001.png")
    monkeypatch.setattr(derived_columns, "DERIVED_COLUMNS", (BYTES,))
    report = ingest_split(root, "train", uri, repair=True)
    assert (report.rows, report.damaged, report.lost) == (9, 1, [])
    split = LanceSplit(uri)
    assert verify_rows(split.dataset).passed
    assert split.to_table(["bytes_per_pixel"])["bytes_per_pixel"].to_pylist() == expected(split)


@pytest.mark.parametrize("columns", [(), (BYTES,)], ids=["missing", "stored"])
def test_damaged_rows_are_repaired_from_older_versions(
    columns: tuple[DerivedColumn, ...], root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    uri = str(tmp_path / "train.lance")
    monkeypatch.setattr(derived_columns, "DERIVED_COLUMNS", columns)
    ingest_split(root, "train", uri)
    older = LanceSplit(uri)
    rows = older.to_table().to_batches()
    commit_table(uri, older.dataset.schema, rows, older.facts)
    (newest,) = (Path(uri, "data", file.path) for file in open_table(uri).get_fragments()[0].data_files())
    damage(newest, older, "dog/001.png")
    monkeypatch.setattr(derived_columns, "DERIVED_COLUMNS", (BYTES,))
    assert repair_from_versions(uri).same
    split = LanceSplit(uri)
    assert verify_rows(split.dataset).passed
    assert len(split) == 9
    if columns:
        assert split.to_table(["bytes_per_pixel"])["bytes_per_pixel"].to_pylist() == expected(split)


def damage(file: Path, split: LanceSplit, path: str) -> None:
    """Flip one bit of a stored image in one data file."""
    rows = split.to_table(["path", "image"]).to_pylist()
    image = next(row["image"] for row in rows if row["path"] == path)
    stored = bytearray(file.read_bytes())
    stored[stored.index(image) + len(image) // 2] ^= 0x10
    file.write_bytes(stored)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
