"""Every kind of damage to a split's files is detected, named and repaired."""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import lance
import pytest

from lance_pipeline.errors import DamagedError, InputError
from lance_pipeline.images import ImageDataset, ImageLoader, IngestReport, LanceSplit, ingest_split
from lance_pipeline.ingest.maintenance import tidy
from lance_pipeline.ingest.repair import repair_from_versions
from lance_pipeline.storage.tables import open_table
from lance_pipeline.storage.verification import verify_rows
from lance_pipeline_tests.image_folders import write_image_folder
from lance_pipeline_tests.storage.damages import DAMAGES, flip

COUNTS = {"train": {"cat": 30, "dog": 32}}
FLIPS = 40
STORES: dict[str, Callable[[Path], Path]] = {
    "data": lambda uri: next((uri / "data").iterdir()),
    "deletions": lambda uri: next((uri / "_deletions").iterdir()),
    # Lance counts the names of manifests down.
    "manifest": lambda uri: min((uri / "_versions").glob("*.manifest")),
}


@dataclass(frozen=True)
class Prepared:
    """A split of two versions, the second without one of the rows, to copy and damage."""

    root: str
    folder: Path
    report: IngestReport

    def copy(self, folder: Path) -> Path:
        shutil.copytree(self.folder, folder)
        return folder / "train.lance"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Prepared:
    root = write_image_folder(tmp_path_factory.mktemp("raw"), COUNTS)
    folder = tmp_path_factory.mktemp("lance")
    ingest_split(root, "train", str(folder / "train.lance"))
    os.unlink(Path(root, "train", "cat", "003.png"))
    return Prepared(root, folder, ingest_split(root, "train", str(folder / "train.lance")))


@pytest.fixture(scope="module")
def expected(prepared) -> list[tuple[bytes, int]]:
    return contents(str(prepared.folder / "train.lance"), prepared.report.version)


def contents(uri: str, version: int | None = None) -> list[tuple[bytes, int]]:
    """The loader's output for each row, sorted, so that it does not depend on the stored order."""
    loader = ImageLoader(uri, version=version, batch_size=16, image_size=12, training=False, cache=None)
    return sorted(rows(loader))


def contents_or_error(uri: str, version: int) -> list[tuple[bytes, int]] | str:
    """The loader's output, or the URI if its error names it."""
    try:
        return contents(uri, version)
    except InputError as error:
        return uri if uri in str(error) else str(error)


def rows(batches) -> Iterator[tuple[bytes, int]]:
    for images, labels in batches:
        for image, label in zip(images, labels.tolist(), strict=True):
            yield image.numpy().tobytes(), label


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_each_damage_is_detected_and_repaired_from_the_files(store, damage, prepared, expected, tmp_path):
    uri = prepared.copy(tmp_path / "lance")
    DAMAGES[damage](STORES[store](uri))
    # The loader fails, or the damaged bytes do not affect its output.
    assert contents_or_error(str(uri), prepared.report.version) in (expected, str(uri))
    report = ingest_split(prepared.root, "train", str(uri), repair=True)
    assert (report.fingerprint, report.counts, report.channels, report.lost) == (
        prepared.report.fingerprint, prepared.report.counts, prepared.report.channels, [],
    )  # fmt: skip
    assert verify_rows(open_table(str(uri))).passed
    assert contents(str(uri)) == expected
    assert ingest_split(prepared.root, "train", str(uri)).version == report.version


def test_no_flipped_bit_changes_the_output_of_a_loader(prepared, expected, tmp_path):
    uri = prepared.copy(tmp_path / "lance")
    file = STORES["data"](uri)
    whole = file.read_bytes()
    detected = 0
    for seed in range(FLIPS):
        flip(file, seed)
        table = lance.dataset(str(uri))
        try:
            assert contents(str(uri)) == expected
        except DamagedError:
            detected += 1
            assert not verify_rows(table).passed
        else:
            verified = verify_rows(table)
            assert (
                not verified.passed
                or table.to_table() == lance.dataset(str(prepared.folder / "train.lance")).to_table()
            )
        file.write_bytes(whole)
    assert detected > FLIPS / 4


def flip_image(uri: Path, path: str) -> None:
    """Flip one bit of a stored image in place."""
    _flip_value(uri, "image", path)


def flip_digest(uri: Path, path: str) -> None:
    """Flip one bit of the stored SHA-256 of an image."""
    _flip_value(uri, "sha256", path)


def _flip_value(uri: Path, column: str, path: str) -> None:
    rows = LanceSplit(str(uri)).to_table(["path", column]).to_pylist()
    value = next(row[column] for row in rows if row["path"] == path)
    for file in (uri / "data").iterdir():
        stored = bytearray(file.read_bytes())
        if (start := stored.find(value)) >= 0:
            stored[start + len(value) // 2] ^= 0x10
            file.write_bytes(stored)


def test_every_reader_names_a_damaged_image(prepared, tmp_path):
    uri = prepared.copy(tmp_path / "lance")
    flip_image(uri, "dog/007.png")
    cached = ImageLoader(str(uri), batch_size=8, image_size=12, training=True)
    dataset = ImageDataset(str(uri), image_size=12)
    readers: list[Callable[[], object]] = [
        lambda: contents(str(uri)),
        lambda: list(cached),
        lambda: [dataset[row] for row in range(len(dataset))],
        lambda: LanceSplit(str(uri)).take(range(prepared.report.rows), ["image"]),
    ]
    for read in readers:
        with pytest.raises(DamagedError, match=r"dog/007\.png.*python -m lance_pipeline verify"):
            read()
    (row,) = verify_rows(open_table(str(uri))).damaged
    assert (row.path, row.label) == ("dog/007.png", "dog")


def test_a_damaged_column_is_detected_when_paths_are_read(prepared, tmp_path):
    uri = prepared.copy(tmp_path / "lance")
    assert LanceSplit(str(uri)).paths() == LanceSplit(str(uri)).to_table(["path"])["path"].to_pylist()
    flip_digest(uri, "dog/007.png")
    with pytest.raises(DamagedError, match=r"\b1\b.*dog/007\.png"):
        LanceSplit(str(uri)).paths()


def test_compaction_leaves_damaged_tables_unchanged(prepared, tmp_path):
    uri = prepared.copy(tmp_path / "lance")
    flip_image(uri, "dog/007.png")
    before = open_table(str(uri)).version
    tidied = tidy(str(uri), timedelta(0), str(tmp_path / "lance" / "train_seen"))
    assert "verify" in tidied.note
    assert tidied.versions == tidied.versions_before
    assert open_table(str(uri)).version == before


def test_rows_of_lost_files_are_restored_from_older_versions(prepared, expected, tmp_path):
    uri = prepared.copy(tmp_path / "lance")
    # Compaction writes new data files.
    lance.dataset(str(uri)).optimize.compact_files(materialize_deletions_threshold=0.0)
    newest = lance.dataset(str(uri)).get_fragments()[0].metadata.files[0].path
    for damage in DAMAGES.values():
        copy = tmp_path / damage.__name__ / "train.lance"
        shutil.copytree(uri, copy)
        damage(copy / "data" / newest)
        done = repair_from_versions(str(copy))
        assert (done.lost, done.same) == ([], True)
        assert contents(str(copy)) == expected


def test_unrecoverable_rows_are_listed(prepared, tmp_path):
    uri = prepared.copy(tmp_path / "lance")
    flip_image(uri, "dog/007.png")
    done = repair_from_versions(str(uri))
    assert ([row.path for row in done.lost], done.same) == (["dog/007.png"], False)
    assert verify_rows(open_table(str(uri))).passed
    assert len(contents(str(uri))) == prepared.report.rows - 1


def test_removing_a_damaged_row_keeps_the_facts_correct(prepared, tmp_path):
    root = tmp_path / "raw"
    shutil.copytree(prepared.root, root)
    uri = prepared.copy(tmp_path / "lance")
    flip_digest(uri, "dog/007.png")
    (root / "train" / "dog" / "007.png").unlink()
    report = ingest_split(str(root), "train", str(uri))
    assert report.fingerprint == ingest_split(str(root), "train", str(tmp_path / "rebuilt.lance")).fingerprint
    assert verify_rows(open_table(str(uri))).passed


def test_the_replacement_of_a_lost_version_is_not_mistaken_for_it(prepared, tmp_path):
    uri = prepared.copy(tmp_path / "lance")
    lost = prepared.report
    STORES["manifest"](uri).write_bytes(b"")
    ingest_split(prepared.root, "train", str(uri), repair=True)
    with pytest.raises(DamagedError, match="lost"):
        LanceSplit(str(uri), lost.version, lost.fingerprint)


def test_a_version_with_a_different_fingerprint_is_refused(prepared, tmp_path):
    uri = prepared.copy(tmp_path / "lance")
    with pytest.raises(DamagedError, match=str(uri)):
        LanceSplit(str(uri), 1, prepared.report.fingerprint)
    assert len(LanceSplit(str(uri), 2, prepared.report.fingerprint)) == prepared.report.rows


def test_rows_removed_by_another_tool_are_not_damage(prepared, tmp_path, caplog):
    uri = prepared.copy(tmp_path / "lance")
    lance.dataset(str(uri)).delete("path = 'dog/001.png'")
    assert len(contents(str(uri))) == prepared.report.rows - 1
    assert str(uri) in caplog.text
    verified = verify_rows(open_table(str(uri)))
    assert not verified.damaged
    assert {str(prepared.report.rows), str(prepared.report.rows - 1)} <= set(verified.note.split())


def test_a_label_changed_by_another_tool_is_detected(prepared, tmp_path):
    uri = prepared.copy(tmp_path / "lance")
    lance.dataset(str(uri)).update({"label": "'cat'"}, where="path = 'dog/001.png'")
    with pytest.raises(DamagedError, match="cat, dog"):
        contents(str(uri))
    assert len(verify_rows(open_table(str(uri))).damaged) == 1
    repaired = ingest_split(prepared.root, "train", str(uri), repair=True)
    assert repaired.fingerprint == prepared.report.fingerprint
