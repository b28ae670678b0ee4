"""Any sequence of incremental ingests gives the same dataset as a full rebuild."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from lance_pipeline.errors import InputError
from lance_pipeline.images import IngestReport, LanceSplit, ingest_split
from lance_pipeline.ingest import crew, intake
from lance_pipeline.ingest import seen_files as seen
from lance_pipeline.ingest.ingestion import IngestSource, Watch, ingest
from lance_pipeline.ingest.quarantine import Limits
from lance_pipeline.sources.listing import list_unsplit_folders
from lance_pipeline.sources.split_assignment import ByFractions
from lance_pipeline.storage.sealed import unsealed
from lance_pipeline_tests.image_folders import class_image, encoded, write_image_folder

ANY_SHARE = Limits(max_rejected_fraction=1)
# The files of these tests get artificial mtimes, independent of the clock.
_LONG_AGO = 10**18
_WATCH = Watch()


def content(seed: int, *, transparent: bool = False) -> bytes:
    if transparent:
        image = class_image(seed % 3, np.random.default_rng(seed), 3).convert("RGBA")
        image.putalpha(Image.effect_noise((3, 3), 200))
        return encoded(image)
    return encoded(class_image(seed % 3, np.random.default_rng(seed), 2 + seed % 3))


class Folder:
    """The folder of one split; each write gives a file a new mtime."""

    def __init__(self, root: Path) -> None:
        self.root, self._clock = root, 0
        for label in ("cat", "dog"):
            (root / "train" / label).mkdir(parents=True)

    def write(self, name: str, data: bytes) -> None:
        self._clock += 1
        path = self.root / "train" / name
        path.write_bytes(data)
        os.utime(path, ns=(_LONG_AGO, _LONG_AGO + self._clock))

    def apply(self, edit: tuple[str, str, int]) -> None:
        kind, name, seed = edit
        path = self.root / "train" / name
        if kind in ("write", "write transparent"):
            self.write(name, content(seed, transparent=kind != "write"))
        elif kind == "break":
            self.write(name, content(seed)[:20])
        elif not path.exists():
            return
        elif kind == "touch":
            self.write(name, path.read_bytes())
        elif kind == "remove":
            path.unlink()
        elif kind == "move":
            path.rename(path.with_name(f"moved{seed % 3}.png"))


def rows_of(uri: str, version: int | None = None) -> list[dict[str, Any]]:
    """All stored rows in a fixed order, without the mtimes of their files."""
    # A touched file keeps its row, with the earlier mtime.
    table = LanceSplit(uri, version).to_table().drop(["mtime", "row_digest"])
    return sorted(table.to_pylist(), key=lambda row: row["path"])


def state_of(report: IngestReport) -> tuple[Any, ...]:
    rejected = lance.dataset(report.rejected_uri, version=report.rejected_version).to_table().to_pylist()
    facts = LanceSplit(report.uri, report.version).facts
    kept = {name: facts[name] for name in ("classes", "counts", "rows", "fingerprint", "channels", "decoders")}
    return rows_of(report.uri, report.version), rejected, kept, report.counts, report.channels, report.fingerprint


_NAMES = st.sampled_from([f"{label}/{number}.png" for label in ("cat", "dog") for number in range(4)])
_EDITS = st.lists(
    st.tuples(
        st.sampled_from(["write", "write transparent", "break", "touch", "remove", "move"]), _NAMES, st.integers(0, 20)
    ),
    max_size=6,
)
_ROUNDS = st.tuples(_EDITS, st.sampled_from(["white", "white", "drop"]))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(_ROUNDS, min_size=1, max_size=5), st.booleans(), st.integers(0, 99))
def test_increments_give_the_same_dataset_as_a_rebuild(rounds, forget, seed):
    with tempfile.TemporaryDirectory() as place:
        folder = Folder(Path(place, "raw"))
        for number, label in enumerate(("cat", "dog")):
            folder.write(f"{label}/anchor.png", content(seed + number))
        target, versions = str(Path(place, "train.lance")), []
        choices = []
        for edits, transparency in rounds:
            for edit in edits:
                folder.apply(edit)
            if forget:
                shutil.rmtree(Path(place, "train_seen"), ignore_errors=True)
            before = versions[-1] if versions else None
            report = ingest_split(str(folder.root), "train", target, limits=ANY_SHARE, transparency=transparency)
            versions.append(report)
            choices.append(transparency)
            if before and state_of(before) == state_of(report) and len(set(choices[-2:])) == 1:
                assert (report.version, report.added, report.removed) == (before.version, 0, 0)
            elif before:
                # A transparency setting that changes no pixel makes a version that only notes it.
                assert state_of(before) != state_of(report) or report.blended_on == before.blended_on
                assert report.version == before.version + 1
            assert report.scanned == report.rows + report.rejected
        rebuilt = str(Path(place, "rebuilt.lance"))
        rebuilt = ingest_split(str(folder.root), "train", rebuilt, limits=ANY_SHARE, transparency=choices[-1])
        assert state_of(versions[-1])[0] == state_of(rebuilt)[0]
        assert state_of(versions[-1])[1:] == state_of(rebuilt)[1:]


def test_removing_all_rows_of_a_data_file(tmp_path):
    """A row that was added alone and is removed leaves a data file without rows."""
    folder = Folder(tmp_path / "raw")
    for number in range(4):
        folder.write(f"{'cat' if number % 2 else 'dog'}/{number}.png", content(number))
    target = str(tmp_path / "train.lance")
    first = ingest_split(str(folder.root), "train", target)
    folder.write("cat/more.png", content(9))
    assert ingest_split(str(folder.root), "train", target).added == 1
    folder.apply(("remove", "cat/more.png", 0))
    last = ingest_split(str(folder.root), "train", target)
    assert (last.version, last.removed, last.fingerprint) == (3, 1, first.fingerprint)
    assert rows_of(target) == rows_of(target, 1)
    assert len(lance.dataset(target).get_fragments()) == 1
    assert lance.dataset(target, version=2).count_rows() == 5


def test_only_changed_files_are_read(tmp_path):
    """A file whose content breaks while size and mtime stay is not rejected, so it was not read."""
    folder = Folder(tmp_path / "raw")
    for number in range(6):
        folder.write(f"{'cat' if number % 2 else 'dog'}/{number}.png", content(number))
    target = str(tmp_path / "train.lance")
    ingest_split(str(folder.root), "train", target)
    path = folder.root / "train" / "cat" / "1.png"
    times, size = path.stat().st_mtime_ns, path.stat().st_size
    path.write_bytes(bytes(size))
    os.utime(path, ns=(times, times))
    folder.write("dog/new.png", content(7))
    report = ingest_split(str(folder.root), "train", target)
    assert (report.added, report.removed, report.rejected) == (1, 0, 0)


def test_file_changed_within_the_clock_resolution_is_read_again(tmp_path):
    root = write_image_folder(tmp_path / "raw", {"train": {"cat": 2, "dog": 2}})
    target, path = str(tmp_path / "train.lance"), tmp_path / "raw" / "train" / "cat" / "000.png"
    first = ingest_split(root, "train", target)
    status = path.stat()
    path.write_bytes(bytes(status.st_size))
    os.utime(path, ns=(status.st_mtime_ns, status.st_mtime_ns))
    report = ingest_split(root, "train", target, limits=ANY_SHARE)
    assert (report.removed, report.rejected) == (1, 1)
    assert report.fingerprint != first.fingerprint


def test_copied_folder_changes_nothing(tmp_path):
    root = write_image_folder(tmp_path / "raw", {"train": {"cat": 3, "dog": 3}})
    target = str(tmp_path / "train.lance")
    first = ingest_split(root, "train", target)
    moved = tmp_path / "fresh"
    shutil.copytree(root, moved, copy_function=shutil.copyfile)
    again = ingest_split(str(moved), "train", target)
    assert (again.version, again.added, again.removed) == (first.version, 0, 0)


def test_number_of_step_files_stays_small(tmp_path):
    folder = Folder(tmp_path / "raw")
    for number in range(4):
        folder.write(f"{'cat' if number % 2 else 'dog'}/{number}.png", content(number))
    target = str(tmp_path / "train.lance")
    for _ in range(40):
        folder.apply(("touch", "cat/1.png", 0))
        assert ingest_split(str(folder.root), "train", target).version == 1
    assert len(list((tmp_path / "train_seen").iterdir())) <= 33


def test_damaged_steps_make_no_version(tmp_path):
    root = write_image_folder(tmp_path / "raw", {"train": {"cat": 3, "dog": 3}})
    target = str(tmp_path / "train.lance")
    first = ingest_split(root, "train", target)
    for path in (tmp_path / "train_seen").iterdir():
        path.write_bytes(path.read_bytes()[:-50])
    again = ingest_split(root, "train", target)
    assert (again.version, again.added) == (first.version, 0)


def test_outdated_dataset_is_rewritten(tmp_path, monkeypatch):
    root = write_image_folder(tmp_path / "raw", {"train": {"cat": 3, "dog": 3}})
    target = str(tmp_path / "train.lance")
    first = ingest_split(root, "train", target)
    monkeypatch.setattr("lance_pipeline.ingest.stored_split.INGEST_VERSION", "next")
    second = ingest_split(root, "train", target)
    assert (second.version, second.added, second.rows) == (2, 6, 6)
    assert second.fingerprint == first.fingerprint


def test_steps_are_compacted_to_the_current_files(tmp_path, monkeypatch):
    monkeypatch.setattr(seen, "_MAX_STEPS", 3)
    folder, target, versions = Folder(tmp_path / "raw"), str(tmp_path / "train.lance"), []

    def remembered() -> list[list[str]]:
        steps = (tmp_path / "train_seen").glob("step-*")
        files = [pa.ipc.open_file(pa.py_buffer(unsealed(path.read_bytes())[0])) for path in steps]
        return [file.read_all()["path"].to_pylist() for file in files]

    for name in ("cat/a.png", "cat/b.png", "dog/c.png", "dog/gone.png"):
        folder.write(name, content(1))
    for number in range(10):
        folder.write("cat/a.png", content(number))
        if number == 5:
            (folder.root / "train" / "dog" / "gone.png").unlink()
        versions.append(ingest_split(str(folder.root), "train", target).version)
        assert len(remembered()) <= 4
    assert all("dog/gone.png" not in paths for paths in remembered())
    calls = []
    again = ingest_split(str(folder.root), "train", target, watch=Watch(progress=lambda *call: calls.append(call)))
    assert (calls, again.version, again.rows) == ([], versions[-1], 3)


FRACTIONS = {"train": 0.5, "val": 0.25, "test": 0.25}


def ingest_fractions(
    root: str, place: Path, wanted: tuple[str, ...] = tuple(FRACTIONS), salt: str = "", watch: Watch = _WATCH
) -> dict[str, IngestReport]:
    listing = list_unsplit_folders(root)
    source = IngestSource(
        root, "", lambda: listing.files, listing.classes, ByFractions(FRACTIONS, salt), str(place / "pets_seen")
    )
    uris = {split: str(place / f"pets_{split}.lance") for split in wanted}
    return ingest(source, uris, limits=ANY_SHARE, watch=watch)


def paths_by_split(place: Path) -> dict[str, set[str]]:
    return {
        split: set(LanceSplit(str(place / f"pets_{split}.lance")).to_table(["path"])["path"].to_pylist())
        for split in FRACTIONS
    }


@pytest.fixture
def pets(tmp_path):
    return write_image_folder(tmp_path / "pets", {"": {"cat": 40, "dog": 40}})


def test_fractions_fill_three_datasets_in_one_pass(pets, tmp_path):
    reports = ingest_fractions(pets, tmp_path)
    assert sum(report.scanned for report in reports.values()) == sum(report.rows for report in reports.values()) == 80
    paths = paths_by_split(tmp_path)
    assert sum(map(len, paths.values())) == len(set.union(*paths.values())) == 80
    for split in FRACTIONS:
        assert set(LanceSplit(reports[split].uri).to_table(["split"])["split"].to_pylist()) == {split}


def test_copies_share_a_split_and_new_images_move_none(pets, tmp_path):
    ingest_fractions(pets, tmp_path)
    before = paths_by_split(tmp_path)
    for path in sorted(Path(pets).rglob("*.png"))[:20]:
        shutil.copy(path, path.with_name(f"copy-of-{path.name}"))
        other = "dog" if path.parent.name == "cat" else "cat"
        shutil.copy(path, path.parent.parent / other / f"mislabelled-{path.parent.name}-{path.name}")
    ingest_fractions(pets, tmp_path)
    after = paths_by_split(tmp_path)
    for split, paths in before.items():
        assert paths <= after[split]
        copies = {path for path in after[split] if "copy-of-" in path}
        assert {path.replace("copy-of-", "") for path in copies} <= paths
    assert sum(map(len, after.values())) == 120


def test_one_split_of_three_can_be_ingested_alone(pets, tmp_path):
    together = {split: report.fingerprint for split, report in ingest_fractions(pets, tmp_path / "a").items()}
    for split in ("val", "train", "test"):
        report = ingest_fractions(pets, tmp_path / "b", (split,))[split]
        assert (report.fingerprint, report.version) == (together[split], 1)
    assert all(report.version == 1 for report in ingest_fractions(pets, tmp_path / "b").values())


def test_another_salt_moves_images_between_the_splits(pets, tmp_path):
    ingest_fractions(pets, tmp_path)
    moved = ingest_fractions(pets, tmp_path, salt="again")
    fresh = ingest_fractions(pets, tmp_path / "fresh", salt="again")
    assert {split: r.fingerprint for split, r in moved.items()} == {split: r.fingerprint for split, r in fresh.items()}
    assert any(report.removed for report in moved.values())


def test_split_without_images_of_a_class_is_an_error(tmp_path):
    root = write_image_folder(tmp_path / "pets", {"": {"cat": 40, "dog": 2}})
    with pytest.raises(InputError, match=r"'dog' in .*fraction.*salt"):
        ingest_fractions(root, tmp_path)


def test_bad_files_are_counted_in_drawn_splits_too(pets, tmp_path):
    for number in range(12):
        Path(pets, "cat", f"bad{number}.png").write_bytes(f"bad {number}".encode())
    reports = ingest_fractions(pets, tmp_path)
    assert sum(report.rejected for report in reports.values()) == 12
    assert sum(report.scanned for report in reports.values()) == 92
    assert all(report.scanned == report.rows + report.rejected for report in reports.values())


def test_steps_of_any_length_give_the_same_dataset(pets, tmp_path, monkeypatch):
    whole = ingest_fractions(pets, tmp_path / "whole")
    monkeypatch.setattr(crew, "_TASK_FILES", 7)
    monkeypatch.setattr(intake, "STEP_SECONDS", 0.0)
    steps = ingest_fractions(pets, tmp_path / "steps")
    for split, report in whole.items():
        table, other = (LanceSplit(one.uri).to_table() for one in (report, steps[split]))
        assert table == other
        assert len(LanceSplit(steps[split].uri).dataset.get_fragments()) > 1
