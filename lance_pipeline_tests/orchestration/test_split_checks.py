"""The checks of the splits, each on a folder with the fault that it should find."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import lance
import numpy as np
import pytest
from PIL import Image

from lance_pipeline.orchestration.records import Split
from lance_pipeline.quality.split_checks import SPLIT_CHECKS
from lance_pipeline_tests.image_folders import class_image, write_image_folder
from lance_pipeline_tests.orchestration.check_results import (
    DATA,
    SPLITS,
    assert_images,
    check_of,
    failed_checks,
    full_list,
    images_of,
    latest_check,
    numbers_of,
    pairs_of,
    runs_of,
)
from lance_pipeline_tests.orchestration.conftest import Graph, failure_of

# Exactly as many as `min_images_per_class` requires.
CLEAN = {split: {"cat": 10, "dog": 10} for split in SPLITS}
BLOCKING = {"counts_reconcile", "schema", "same_classes"}


@pytest.fixture
def clean(graph: Graph) -> Graph:
    """A graph on images that pass every check."""
    write_image_folder(graph.images, CLEAN)
    return graph


def copy_as(source: Path, target: Path, **how: Any) -> None:
    """Save the same pixels as different bytes."""
    with Image.open(source) as image:
        image.save(target, **how)
    assert target.read_bytes() != source.read_bytes()


def retouch(source: Path, target: Path) -> None:
    """Save the same picture except for one pixel."""
    with Image.open(source) as image:
        pixels = np.asarray(image).copy()
    pixels[0, 0] = 255 - pixels[0, 0]
    Image.fromarray(pixels).save(target)


def add_images(folder: Path, count: int) -> None:
    rng = np.random.default_rng(1)
    for number in range(count):
        class_image(0, rng).save(folder / f"more{number}.png")


def test_clean_folder_passes_every_check(clean: Graph):
    assert clean.materialize(*DATA).success
    assert failed_checks(clean) == set()
    for split in SPLITS:
        for check in SPLIT_CHECKS:
            evaluation = check_of(clean, split, check.name)
            expected = dg.AssetCheckSeverity.ERROR if check.name in BLOCKING else dg.AssetCheckSeverity.WARN
            assert evaluation.severity == expected, check.name
            assert not {"full_list", "examples"} & evaluation.metadata.keys(), check.name
    numbers = {check.name: numbers_of(check_of(clean, "val", check.name)) for check in SPLIT_CHECKS}
    nothing = {"images": 0, "share": "0.0 %"}
    assert numbers == {
        "counts_reconcile": {"scanned": 20, "rows": 20, "rejected": 0},
        "schema": {"columns": "17", "missing_or_changed": "", "of_other_tools": ""},
        "same_classes": {"classes": "2", "missing": ""},
        **dict.fromkeys(["leakage", "near_leakage", "exact_duplicates", "near_duplicates", "label_conflicts"], nothing),
        "plain_images": nothing,
        "class_balance": {"largest_to_smallest_class": 1.0, "limit": "10"},
        "few_images": {"classes": 0, "limit": "10"},
        "odd_sizes": nothing | {"smaller_than_image_size": 20},
    }
    raw = latest_check(clean, "raw_images", "same_classes")
    assert raw is not None
    assert raw.passed


def test_leakage_knows_an_image_by_its_pixels(clean: Graph):
    train, val, test = (clean.images / split for split in SPLITS)
    shutil.copy(train / "cat" / "000.png", val / "cat" / "copy.png")
    copy_as(train / "cat" / "001.png", val / "cat" / "other.bmp")
    copy_as(train / "dog" / "002.png", test / "dog" / "other.png", compress_level=0)
    assert clean.materialize(*DATA).success

    assert failed_checks(clean) == {(split, "leakage") for split in SPLITS}
    assert_images(clean, "train", "leakage", 3, 20)
    assert_images(clean, "val", "leakage", 2, 22)
    assert_images(clean, "test", "leakage", 1, 21)
    assert sorted(pairs_of(full_list(clean, "train", "leakage"))) == [
        ("train/cat/000.png", "val/cat/copy.png"),
        ("train/cat/001.png", "val/cat/other.bmp"),
        ("train/dog/002.png", "test/dog/other.png"),
    ]
    assert sorted(pairs_of(full_list(clean, "val", "leakage"))) == [
        ("val/cat/copy.png", "train/cat/000.png"),
        ("val/cat/other.bmp", "train/cat/001.png"),
    ]
    assert pairs_of(full_list(clean, "test", "leakage")) == [("test/dog/other.png", "train/dog/002.png")]


@pytest.mark.parametrize("check", ["leakage", "near_leakage"])
def test_image_in_all_splits_is_one_image(clean: Graph, check: str):
    change = shutil.copy if check == "leakage" else retouch
    for split in ("val", "test"):
        change(clean.images / "train" / "cat" / "000.png", clean.images / split / "cat" / "copy.png")
    assert clean.materialize(*DATA).success
    assert set(images_of(full_list(clean, "train", check))) == {"train/cat/000.png"}
    assert numbers_of(check_of(clean, "train", check))["images"] == 1


def test_images_that_look_alike(clean: Graph):
    train, test = clean.images / "train", clean.images / "test"
    retouch(train / "cat" / "003.png", test / "cat" / "alike.png")
    retouch(test / "dog" / "004.png", test / "dog" / "alike.png")
    assert clean.materialize(*DATA).success

    assert failed_checks(clean) == {("train", "near_leakage"), ("test", "near_leakage"), ("test", "near_duplicates")}
    assert_images(clean, "train", "near_leakage", 1, 20)
    assert_images(clean, "test", "near_leakage", 1, 22)
    assert_images(clean, "test", "near_duplicates", 1, 22)
    leaked = full_list(clean, "test", "near_leakage")
    assert pairs_of(leaked) == [("test/cat/alike.png", "train/cat/003.png")]
    assert pairs_of(full_list(clean, "train", "near_leakage")) == [("train/cat/003.png", "test/cat/alike.png")]
    repeated = full_list(clean, "test", "near_duplicates")
    assert [set(pair) for pair in pairs_of(repeated)] == [{"test/dog/004.png", "test/dog/alike.png"}]
    bits = [*leaked["bits"], *repeated["bits"]]
    assert all(1 <= count <= 4 for count in bits), bits

    clean.attributes["checks"] = {"near_duplicate_bits": 0}
    assert clean.materialize(*DATA).success
    assert failed_checks(clean) == set()


def test_duplicates_are_those_beyond_the_first(clean: Graph):
    cats = clean.images / "train" / "cat"
    shutil.copy(cats / "000.png", cats / "copy.png")
    copy_as(cats / "000.png", cats / "other.bmp")
    assert clean.materialize(*DATA).success

    assert failed_checks(clean) == {("train", "exact_duplicates")}
    assert_images(clean, "train", "exact_duplicates", 2, 22)
    surplus, firsts = zip(*pairs_of(full_list(clean, "train", "exact_duplicates")), strict=True)
    assert len(set(firsts)) == 1
    assert {*surplus, *firsts} == {f"train/cat/{name}" for name in ("000.png", "copy.png", "other.bmp")}


def test_label_conflicts_within_a_split_and_across(clean: Graph):
    train, val, test = (clean.images / split for split in SPLITS)
    shutil.copy(train / "cat" / "000.png", train / "dog" / "same.png")
    copy_as(val / "cat" / "001.png", test / "dog" / "same.bmp")
    assert clean.materialize(*DATA).success

    conflicts = {(split, "label_conflicts") for split in SPLITS}
    assert failed_checks(clean) == conflicts | {("train", "exact_duplicates"), ("val", "leakage"), ("test", "leakage")}
    across = {"val/cat/001.png", "test/dog/same.bmp"}
    expected = {"train": {"train/cat/000.png", "train/dog/same.png"}, "val": across, "test": across}
    for split, total in (("train", 21), ("val", 20), ("test", 21)):
        assert_images(clean, split, "label_conflicts", 1, total)
        pairs = pairs_of(full_list(clean, split, "label_conflicts"))
        assert [set(pair) for pair in pairs] == [expected[split]]


def test_class_balance_beyond_its_limit(clean: Graph):
    clean.attributes["checks"] = {"max_class_ratio": 2}
    add_images(clean.images / "train" / "cat", 11)
    add_images(clean.images / "val" / "cat", 10)
    for file in (clean.images / "val" / "cat").glob("more*"):
        # Flip them, otherwise they would be leaks.
        with Image.open(file) as image:
            image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(file)
    assert clean.materialize(*DATA).success

    assert failed_checks(clean) == {("train", "class_balance")}
    evaluation = check_of(clean, "train", "class_balance")
    assert evaluation.severity == dg.AssetCheckSeverity.WARN
    assert numbers_of(evaluation) == {"largest_to_smallest_class": 2.1, "limit": "2"}
    assert "examples" not in evaluation.metadata
    listed = full_list(clean, "train", "class_balance")
    assert listed[["label", "count"]].values.tolist() == [["cat", 21], ["dog", 10]]
    assert numbers_of(check_of(clean, "val", "class_balance"))["largest_to_smallest_class"] == 2.0


def test_few_images_below_the_minimum(clean: Graph):
    (clean.images / "test" / "dog" / "000.png").unlink()
    assert clean.materialize(*DATA).success

    assert failed_checks(clean) == {("test", "few_images")}
    evaluation = check_of(clean, "test", "few_images")
    assert evaluation.severity == dg.AssetCheckSeverity.WARN
    assert numbers_of(evaluation) == {"classes": 1, "limit": "10"}
    assert "examples" not in evaluation.metadata
    assert full_list(clean, "test", "few_images")[["label", "count"]].values.tolist() == [["dog", 9]]

    clean.attributes["checks"] = {"min_images_per_class": 9}
    assert clean.materialize(*DATA).success
    assert failed_checks(clean) == set()


def test_odd_sizes(clean: Graph):
    clean.attributes["image_size"] = 12
    rng, sizes = np.random.default_rng(1), {"small": (2, 2), "large": (50, 50), "narrow": (10, 40), "wide": (40, 10)}
    for oddity, size in sizes.items():
        class_image(0, rng, size).save(clean.images / "val" / "cat" / f"{oddity}.png")
    class_image(0, rng, (16, 12)).save(clean.images / "val" / "cat" / "usual.png")
    assert clean.materialize(*DATA).success

    assert failed_checks(clean) == {("val", "odd_sizes")}
    assert_images(clean, "val", "odd_sizes", 4, 25)
    assert numbers_of(check_of(clean, "val", "odd_sizes"))["smaller_than_image_size"] == 3
    listed = full_list(clean, "val", "odd_sizes")
    assert images_of(listed) == [f"val/cat/{oddity}.png" for oddity in listed["oddity"]]
    found = {row["oddity"]: (row["width"], row["height"]) for row in listed.to_dict("records")}
    assert found == sizes


def test_counts_reconcile_with_the_quarantine(clean: Graph):
    (clean.images / "val" / "cat" / "notes.png").write_text("no image")
    assert clean.materialize(*DATA).success
    assert failed_checks(clean) == set()
    assert numbers_of(check_of(clean, "val", "counts_reconcile")) == {"scanned": 21, "rows": 20, "rejected": 1}

    # A quarantine that another tool has emptied is written again.
    quarantine = clean.record("lance_val", Split).quarantine.uri
    lance.dataset(quarantine).delete("true")
    assert clean.materialize("lance_val").success
    assert numbers_of(check_of(clean, "val", "counts_reconcile")) == {"scanned": 21, "rows": 20, "rejected": 1}
    assert lance.dataset(quarantine).count_rows() == 1
    assert Path(f"{quarantine}.damaged-1").is_dir()


def test_columns_of_other_tools_stop_nothing_but_missing_ones_do(clean: Graph):
    assert clean.materialize(*DATA).success
    dataset = lance.dataset(clean.record("lance_train", Split).data.uri)
    dataset.add_columns({"extra": "1"})
    add_images(clean.images / "train" / "cat", 1)
    assert clean.materialize("lance_train").success
    evaluation = check_of(clean, "train", "schema")
    assert evaluation.passed
    assert numbers_of(evaluation) == {"columns": "18", "missing_or_changed": "", "of_other_tools": "extra"}
    before = runs_of(clean)
    lance.dataset(dataset.uri).drop_columns(["width"])
    assert "'width' is missing" in failure_of(clean.materialize("lance_train"))
    assert runs_of(clean) == before


def test_list_goes_with_its_fault(clean: Graph):
    leaked = clean.images / "val" / "cat" / "copy.png"
    shutil.copy(clean.images / "train" / "cat" / "000.png", leaked)
    assert clean.materialize(*DATA).success
    lists = [Path(str(check_of(clean, split, "leakage").metadata["full_list"].value)) for split in ("train", "val")]
    assert all(path.is_file() for path in lists)
    assert sorted(lists[0].parent.glob("*.csv")) == sorted(lists)

    leaked.unlink()
    assert clean.materialize(*DATA).success
    assert failed_checks(clean) == set()
    assert "full_list" not in check_of(clean, "train", "leakage").metadata
    assert list(lists[0].parent.glob("*.csv")) == []


def test_leakage_may_be_set_to_stop_the_step(clean: Graph):
    assert clean.materialize(*DATA).success
    before = {split: clean.record(f"lance_{split}", Split) for split in SPLITS}
    runs = runs_of(clean)
    shutil.copy(clean.images / "train" / "cat" / "000.png", clean.images / "val" / "cat" / "copy.png")
    (clean.images / "train" / "dog" / "000.png").unlink()

    clean.attributes["checks"] = {"leakage": "fail", "min_images_per_class": 1}
    result = clean.materialize(*DATA)
    message = failure_of(result)
    evaluation = check_of(clean, "train", "leakage")
    assert "leakage: images 1" in message
    assert str(evaluation.metadata["full_list"].value) in message
    assert "`checks`" in message
    assert "base64" not in message
    assert not evaluation.passed
    assert evaluation.severity == dg.AssetCheckSeverity.ERROR
    assert "examples" in evaluation.metadata
    assert pairs_of(full_list(clean, "train", "leakage")) == [("train/cat/000.png", "val/cat/copy.png")]
    after = runs_of(clean)
    assert after.pop("raw_images") == result.run_id
    # test leaks nothing, so it is materialized; only the two splits that do are held back.
    assert after.pop("lance_test") == result.run_id
    assert after == {name: runs[name] for name in after}
    assert {split: clean.record(f"lance_{split}", Split) for split in SPLITS} == before

    clean.attributes["checks"] = {"leakage": "warn", "min_images_per_class": 1}
    assert clean.materialize(*DATA).success
    assert check_of(clean, "train", "leakage").severity == dg.AssetCheckSeverity.WARN
    assert failed_checks(clean) == {("train", "leakage"), ("val", "leakage")}
    assert {split: clean.record(f"lance_{split}", Split).rows for split in SPLITS} == {
        "train": 19,
        "val": 21,
        "test": 20,
    }


def test_split_that_is_made_later_is_compared_with_those_that_are_there(clean: Graph):
    shutil.copy(clean.images / "train" / "cat" / "000.png", clean.images / "val" / "cat" / "copy.png")
    assert clean.materialize("raw_images", "lance_train").success
    for check in SPLIT_CHECKS:
        assert check_of(clean, "train", check.name).passed, check.name
    assert numbers_of(check_of(clean, "train", "leakage")) == {"images": 0, "share": "0.0 %"}

    assert clean.materialize("lance_val").success
    assert_images(clean, "val", "leakage", 1, 21)
    assert latest_check(clean, "lance_test", "leakage") is None


@pytest.mark.parametrize("leakage", ["warn", "fail"])
def test_dagster_knows_which_checks_block(graph: Graph, leakage: str):
    graph.attributes["checks"] = {"leakage": leakage}
    specs = [spec for asset in graph.assets for spec in asset.check_specs if spec.asset_key.path[-1] in DATA]
    blocking = {(spec.asset_key.path[-1], spec.name) for spec in specs if spec.blocking}
    names = BLOCKING | ({"leakage"} if leakage == "fail" else set())
    assert blocking == {(asset, name) for asset in DATA[1:] for name in names} | {("raw_images", "same_classes")}


def _remove_folder(folder: Path) -> None:
    shutil.rmtree(folder)


def _empty_folder(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


@pytest.mark.parametrize("spoil", [_remove_folder, _empty_folder])
def test_class_without_files_stops_the_listing(clean: Graph, spoil: Callable[[Path], None]):
    assert clean.materialize("raw_images").success
    before = runs_of(clean)
    spoil(clean.images / "val" / "dog")
    spoil(clean.images / "test" / "cat")

    message = failure_of(clean.materialize(*DATA))
    assert str(clean.images) in message
    assert "'dog' in val, 'cat' in test" in message
    assert "add images" in message
    evaluation = latest_check(clean, "raw_images", "same_classes")
    assert evaluation is not None
    assert not evaluation.passed
    assert evaluation.severity == dg.AssetCheckSeverity.ERROR
    assert numbers_of(evaluation) == {"missing_in_train": "", "missing_in_val": "dog", "missing_in_test": "cat"}
    assert runs_of(clean) == before


def test_class_without_readable_files_stops_its_split(clean: Graph):
    clean.attributes["ingest"] = {"max_rejected_fraction": 1}
    for file in (clean.images / "val" / "dog").iterdir():
        file.write_text("no image")

    result = clean.materialize(*DATA)
    message = failure_of(result)
    assert "same_classes" in message
    assert "dog" in message
    evaluation = check_of(clean, "val", "same_classes")
    assert not evaluation.passed
    assert evaluation.severity == dg.AssetCheckSeverity.ERROR
    assert numbers_of(evaluation) == {"classes": "2", "missing": "dog"}
    balance = numbers_of(check_of(clean, "val", "class_balance"))
    assert balance["largest_to_smallest_class"] == "infinite: a class has no images"
    assert full_list(clean, "val", "few_images")[["label", "count"]].values.tolist() == [["dog", 0]]
    runs = runs_of(clean)
    assert runs["lance_train"] == result.run_id
    assert runs["lance_val"] is None


def test_failure_names_the_split(clean: Graph):
    clean.attributes["checks"] = {"leakage": "fail"}
    shutil.copy(clean.images / "val" / "cat" / "000.png", clean.images / "test" / "cat" / "copy.png")
    message = failure_of(clean.materialize(*DATA)).replace(str(clean.images.parent), "")
    assert "val" in message.replace("val_leakage.csv", "")
