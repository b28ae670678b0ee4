import os
import shutil
import subprocess
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from lance_pipeline.errors import InputError
from lance_pipeline.images import ingest_split
from lance_pipeline.sources.listing import (
    UNSPLIT,
    files_of_split,
    list_split_folders,
    list_unsplit_folders,
    store_listing,
)
from lance_pipeline.sources.scanning import LISTING_SCHEMA
from lance_pipeline.storage.schema import LATEST_NS
from lance_pipeline_tests.image_folders import write_image_folder

FOLDERS = {"train": "train", "val": "val", "test": "test"}
COUNTS = {"train": {"cat": 4, "dog": 3}, "val": {"cat": 2, "dog": 2}, "test": {"cat": 1, "dog": 2}}


@pytest.fixture
def root(tmp_path):
    return write_image_folder(tmp_path / "pets", COUNTS)


def test_every_file_is_listed(root):
    listing = list_split_folders(root, FOLDERS)
    assert listing.files.schema == LISTING_SCHEMA
    assert listing.classes == ["cat", "dog"]
    assert listing.counts() == COUNTS
    assert listing.ignored == []
    rows = listing.files.to_pylist()
    assert [(r["split"], r["label"], r["path"]) for r in rows] == sorted(
        (split, label, f"{label}/{number:03d}.png")
        for split, counts in COUNTS.items()
        for label, count in counts.items()
        for number in range(count)
    )
    for row in rows:
        stat = os.stat(Path(root, row["split"], row["path"]))
        assert (row["size"], row["mtime_ns"]) == (stat.st_size, stat.st_mtime_ns)


def test_splits_may_have_folders_of_other_names(root):
    os.rename(Path(root, "val"), Path(root, "valid"))
    listing = list_split_folders(root, FOLDERS | {"val": "valid"})
    assert listing.counts() == COUNTS
    assert listing.folders["val"] == "valid"


def test_folders_inside_a_class_belong_to_it(root):
    deep = Path(root, "train", "cat", "siamese", "young")
    deep.mkdir(parents=True)
    shutil.copy(Path(root, "train", "cat", "000.png"), deep / "x.png")
    listing = list_split_folders(root, FOLDERS)
    assert listing.counts()["train"] == {"cat": 5, "dog": 3}
    assert "cat/siamese/young/x.png" in listing.files["path"].to_pylist()


def test_files_of_file_managers_are_ignored_and_reported(root):
    litter = [
        "train/.DS_Store",
        "train/readme.txt",
        "train/cat/Thumbs.db",
        "train/cat/.hidden/x.png",
        "val/.git/config",
    ]
    for name in litter:
        path = Path(root, name)
        path.parent.mkdir(exist_ok=True)
        path.write_text("litter")
    listing = list_split_folders(root, FOLDERS)
    assert listing.counts() == COUNTS
    assert set(listing.ignored) == {".DS_Store", "readme.txt", "cat/Thumbs.db", "cat/.hidden", ".git"}


def test_a_class_may_be_missing_outside_of_train(root):
    shutil.rmtree(Path(root, "val", "dog"))
    Path(root, "test", "dog", "000.png").unlink()
    Path(root, "test", "dog", "001.png").unlink()
    counts = list_split_folders(root, FOLDERS).counts()
    assert counts["val"] == {"cat": 2, "dog": 0}
    assert counts["test"] == {"cat": 1, "dog": 0}


def test_fingerprint_changes_with_each_property_of_a_file_but_not_with_the_root(root, tmp_path):
    first = list_split_folders(root, FOLDERS).fingerprint()
    moved = tmp_path / "moved"
    os.rename(root, moved)
    seen = [first]
    assert list_split_folders(str(moved), FOLDERS).fingerprint() == first

    file = moved / "train" / "cat" / "000.png"
    os.utime(file, ns=(0, 1))
    seen.append(list_split_folders(str(moved), FOLDERS).fingerprint())
    file.write_bytes(file.read_bytes() + b"more")
    os.utime(file, ns=(0, 1))
    seen.append(list_split_folders(str(moved), FOLDERS).fingerprint())
    os.rename(file, file.with_name("other.png"))
    seen.append(list_split_folders(str(moved), FOLDERS).fingerprint())
    os.rename(file.with_name("other.png"), moved / "val" / "cat" / "other.png")
    seen.append(list_split_folders(str(moved), FOLDERS).fingerprint())
    assert len(set(seen)) == len(seen)


def test_storing_an_unchanged_listing_creates_no_version(root, tmp_path):
    uri = str(tmp_path / "listing.lance")
    first = store_listing(list_split_folders(root, FOLDERS), uri)
    assert store_listing(list_split_folders(root, FOLDERS), uri) == first
    shutil.copy(Path(root, "val", "cat", "000.png"), Path(root, "val", "cat", "new.png"))
    version, fingerprint = store_listing(list_split_folders(root, FOLDERS), uri)
    assert version == first[0] + 1
    assert fingerprint != first[1]


def test_leftovers_of_a_killed_run_are_removed_by_the_next(root, tmp_path):
    uri = tmp_path / "listing.lance"
    store_listing(list_split_folders(root, FOLDERS), str(uri))
    (whole,) = (uri / "data").iterdir()
    Path(root, "val", "cat", "000.png").unlink()
    # In the first run the folder has changed, in the second it has not.
    for _ in range(2):
        shutil.copy(whole, whole.with_name("left-behind.lance"))
        version, _ = store_listing(list_split_folders(root, FOLDERS), str(uri))
        assert len(list((uri / "data").iterdir())) == version == 2


def test_a_stored_listing_is_read_by_split_and_version(root, tmp_path):
    uri = str(tmp_path / "listing.lance")
    before = list_split_folders(root, FOLDERS)
    version, fingerprint = store_listing(before, uri)
    Path(root, "val", "cat", "000.png").unlink()
    newer, changed = store_listing(list_split_folders(root, FOLDERS), uri)
    kept = files_of_split(uri, version, "val", fingerprint)
    listed = [row for row in before.files.to_pylist() if row.pop("split") == "val"]
    assert kept.to_pylist() == listed
    assert len(files_of_split(uri, newer, "val", changed)) == len(kept) - 1


def flipped(data: bytes, place: float) -> bytes:
    at = int(place * (len(data) - 1))
    return data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :]


DAMAGES = {
    "cut": lambda data: data[: len(data) // 2],
    "zero": lambda data: bytes(len(data)),
    "empty": lambda data: b"",
    "delete": None,
} | {f"flip {place}": partial(flipped, place=place / 19) for place in range(20)}


@pytest.mark.parametrize("part", ["data/*.lance", "_versions/*.manifest"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_listing_is_refused_and_replaced_by_the_next(root, tmp_path, damage, part):
    uri, listing = str(tmp_path / "listing.lance"), list_split_folders(root, FOLDERS)
    version, fingerprint = store_listing(listing, uri)
    expected = files_of_split(uri, version, "val", fingerprint)
    for path in Path(uri).glob(part):
        if change := DAMAGES[damage]:
            path.write_bytes(change(path.read_bytes()))
        else:
            path.unlink()
    # Some bits do not affect the content.
    with suppress(InputError):
        assert files_of_split(uri, version, "val", fingerprint).equals(expected)
    again = store_listing(listing, uri)
    assert again[1] == fingerprint
    assert files_of_split(uri, again[0], "val", fingerprint).equals(expected)
    assert store_listing(listing, uri) == again


def test_a_missing_listing(tmp_path):
    with pytest.raises(InputError, match=r"nothing\.lance"):
        files_of_split(str(tmp_path / "nothing.lance"), 1, "train", "")


def test_storing_in_an_unwritable_folder(root, below_a_file):
    with pytest.raises(InputError, match=r"/\.below\.lock.*LANCE_PIPELINE_DATA"):
        store_listing(list_split_folders(root, FOLDERS), below_a_file)


def test_the_error_of_a_missing_folder_names_its_siblings(root):
    with pytest.raises(InputError, match=r"/pest\b.*'pets'.*source"):
        list_split_folders(root.replace("pets", "pest"), FOLDERS)


def test_missing_folder_whose_parent_is_missing(tmp_path):
    with pytest.raises(InputError, match=rf"{tmp_path}/no/such\b.*{tmp_path}/no\b"):
        list_split_folders(str(tmp_path / "no" / "such"), FOLDERS)


def test_missing_split_folder_suggests_splits(root):
    os.rename(Path(root, "val"), Path(root, "valid"))
    with pytest.raises(InputError, match=r"'val'.*'valid'.*`splits: {val: valid}`.*fractions"):
        list_split_folders(root, FOLDERS)


def test_split_without_classes(root):
    shutil.rmtree(Path(root, "val", "dog"))
    Path(root, "val", "cat").rename(Path(root, "val", ".cat"))
    Path(root, "val", "image.png").write_bytes(b"beside the classes")
    with pytest.raises(InputError, match=r"/val\b.*'\.cat', 'image\.png'"):
        list_split_folders(root, FOLDERS)


def test_split_without_images(root):
    shutil.rmtree(Path(root, "test"))
    write_image_folder(root, {"test": {"cat": 0, "dog": 0}})
    with pytest.raises(InputError, match=r"/test\b"):
        list_split_folders(root, FOLDERS)


def test_empty_class_folder_in_train(root):
    Path(root, "train", "fox").mkdir()
    with pytest.raises(InputError, match=r"/train\b.*'fox'"):
        list_split_folders(root, FOLDERS)


def test_class_that_train_lacks(root):
    write_image_folder(root, {"val": {"wolf": 1}})
    with pytest.raises(InputError, match=r"'val'.*'wolf'.*'cat', 'dog'"):
        list_split_folders(root, FOLDERS)


def test_only_one_class(tmp_path):
    root = write_image_folder(tmp_path, {"train": {"cat": 2}, "val": {"cat": 1}})
    with pytest.raises(InputError, match="'cat'"):
        list_split_folders(root, {"train": "train", "val": "val"})


def test_class_name_that_is_not_utf8(root):
    os.mkdir(os.path.join(os.fsencode(root), b"train", b"caf\xe9"))
    with pytest.raises(InputError, match=r"caf\\xe9"):
        list_split_folders(root, FOLDERS)


def rows_of(listing) -> dict[str, dict]:
    return {row["path"]: row for row in listing.files.to_pylist()}


def test_a_link_has_the_size_and_time_of_its_target(root):
    os.symlink("../dog/000.png", Path(root, "train", "cat", "linked.png"))
    status = os.stat(Path(root, "train", "dog", "000.png"))
    row = rows_of(list_split_folders(root, FOLDERS))["cat/linked.png"]
    assert (row["size"], row["mtime_ns"]) == (status.st_size, status.st_mtime_ns)


def test_special_files_and_broken_links_are_listed(root):
    cat = Path(root, "train", "cat")
    os.symlink("/etc", cat / "away")
    os.symlink("nowhere.png", cat / "nowhere.png")
    os.symlink("circle.png", cat / "circle.png")
    os.mkfifo(cat / "pipe.png")
    listing = list_split_folders(root, FOLDERS)
    assert {"cat/away", "cat/nowhere.png", "cat/circle.png", "cat/pipe.png"} <= rows_of(listing).keys()
    assert not any(path.startswith("cat/away/") for path in rows_of(listing))


def test_a_split_that_is_a_link_out_of_the_root_is_refused(root, tmp_path):
    os.rename(Path(root, "val"), tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", Path(root, "val"))
    with pytest.raises(InputError, match=r"/val\b.*/elsewhere\b"):
        list_split_folders(root, FOLDERS)
    os.rename(tmp_path / "elsewhere", Path(root, "kept"))
    Path(root, "val").unlink()
    os.symlink("kept", Path(root, "val"))
    assert list_split_folders(root, FOLDERS).counts()["val"]


def test_a_circular_link_among_the_classes_is_ignored(root):
    os.symlink("circle", Path(root, "train", "circle"))
    assert list_split_folders(root, FOLDERS).ignored == ["circle"]


def test_folders_may_be_nested_deeply(root):
    top, below = Path(root, "train", "cat"), ["a"] * 1100
    for depth in range(len(below)):
        os.mkdir(top.joinpath(*below[: depth + 1]))
    top.joinpath(*below, "deep.png").write_bytes(b"")
    found = rows_of(list_split_folders(root, FOLDERS))
    # Python's functions would exceed the recursion limit.
    subprocess.run(["rm", "-r", top / "a"], check=True)
    assert "/".join(["cat", *below, "deep.png"]) in found


def test_times_beyond_the_limit_are_clamped(root, tmp_path):
    file = Path(root, "train", "cat", "000.png").rename(Path(root, "train", "cat", "future.png"))
    os.utime(file, (2**34, 2**34))
    if file.stat().st_mtime_ns <= LATEST_NS:
        pytest.skip("this file system does not support such times")
    assert rows_of(list_split_folders(root, FOLDERS))["cat/future.png"]["mtime_ns"] == LATEST_NS
    uri = str(tmp_path / "train.lance")
    ingest_split(str(root), "train", uri)
    assert ingest_split(str(root), "train", uri).added == 0


def test_linked_class_folders_are_all_named(root):
    for name in ("fox", "wolf"):
        os.symlink(Path(root, "val", "cat"), Path(root, "train", name))
    with pytest.raises(InputError, match=r"\b2\b(.|\n)*train/fox(.|\n)*train/wolf"):
        list_split_folders(root, FOLDERS)


def test_messages_can_be_stored_as_utf8(root):
    os.symlink(Path(root, "val", "cat"), os.path.join(os.fsencode(root), b"train", b"x\xff"))
    with pytest.raises(InputError, match=r"x\\u\{dcff\}") as caught:
        list_split_folders(root, FOLDERS)
    str(caught.value).encode("utf-8")


def test_a_folder_of_classes_is_listed_without_splits(tmp_path):
    root = write_image_folder(tmp_path, {"": {"cat": 6, "dog": 5}}, size=2)
    listing = list_unsplit_folders(root)
    assert (listing.classes, listing.folders) == (["cat", "dog"], {UNSPLIT: ""})
    assert listing.counts() == {UNSPLIT: {"cat": 6, "dog": 5}}


def test_pooled_folders_with_different_classes(tmp_path):
    root = write_image_folder(tmp_path, {"train": {"cat": 3, "dog": 2}, "test": {"fox": 2, "dog": 1}}, size=2)
    listing = list_unsplit_folders(root, ["train", "test"])
    assert listing.counts() == {UNSPLIT: {"cat": 3, "dog": 3, "fox": 2}}
    assert {"train/dog/000.png", "test/dog/000.png"} <= rows_of(listing).keys()
    with pytest.raises(InputError, match=r"/val\b.*pool.*'test', 'train'"):
        list_unsplit_folders(root, ["train", "val"])


def test_unsplit_folder_with_only_one_class(tmp_path):
    root = write_image_folder(tmp_path, {"": {"cat": 60}}, size=2)
    with pytest.raises(InputError, match="'cat'"):
        list_unsplit_folders(root)


def test_missing_unsplit_folder(tmp_path):
    with pytest.raises(InputError, match=r"/nothing\b"):
        list_unsplit_folders(str(tmp_path / "nothing"))
