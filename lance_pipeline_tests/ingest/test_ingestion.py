import hashlib
import io
import json
import os
import platform
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from lance_pipeline.errors import InputError
from lance_pipeline.images import LanceSplit, ingest_split
from lance_pipeline.ingest.ingestion import Watch
from lance_pipeline.sources.listing import list_split_folders
from lance_pipeline.sources.scanning import LISTING_SCHEMA
from lance_pipeline_tests.image_folders import TRAIN_COUNTS, class_image, encoded, write_image_folder

# Names that are easily confused once they are decoded to text.
ODD_NAMES = [
    b"two words.png",
    b"line\nbreak.png",
    "Gänseblümchen 雛菊.png".encode(),
    b"100%.png",
    b"%FF.png",
    b"\xff.png",
    b"%25FF.png",
    "é.png".encode(),
    "e\u0301.png".encode(),
    b"quote'\".png",
]


@pytest.fixture
def root(tmp_path):
    return write_image_folder(tmp_path / "pets", {"train": {"cat": 6, "dog": 5}})


@pytest.fixture
def target(tmp_path):
    return str(tmp_path / "lance" / "train.lance")


def by_path(uri: str) -> dict[str, bytes]:
    table = LanceSplit(uri).to_table(["path", "image"])
    return dict(zip(table["path"].to_pylist(), table["image"].to_pylist(), strict=True))


def test_rows_hold_the_unchanged_bytes(root, target):
    report = ingest_split(root, "train", target)
    table = LanceSplit(target).to_table()
    assert table.schema.names[:4] == ["image", "filename", "label", "split"]
    assert len(table) == report.rows == 11
    for row in table.to_pylist():
        data = Path(root, "train", row["path"]).read_bytes()
        assert row["image"] == data
        assert row["sha256"] == hashlib.sha256(data).digest()
        assert row["filename"] == os.path.basename(row["path"])
        assert (row["label"], row["split"]) == (os.path.dirname(row["path"]), "train")
        assert (row["width"], row["height"]) == (12, 12)


def test_report_matches_the_images(root, target):
    report = ingest_split(root, "train", target)
    pixels = np.concatenate(
        [np.asarray(Image.open(path)).reshape(-1, 3) for path in Path(root, "train").glob("*/*.png")]
    ).astype(np.int64)
    assert (report.uri, report.version, report.added, report.removed, report.rejected) == (target, 1, 11, 0, 0)
    assert report.counts == {"cat": 6, "dog": 5}
    assert report.channels.pixels == len(pixels)
    assert report.channels.total == tuple(pixels.sum(axis=0).tolist())
    assert report.channels.squares == tuple((pixels**2).sum(axis=0).tolist())
    facts = LanceSplit(target).facts
    assert facts["fingerprint"] == report.fingerprint
    assert facts["classes"] == ["cat", "dog"]


def test_the_reader_of_the_article_works(train_uri):
    table = lance.dataset(train_uri).to_table()
    classes = sorted(set(table["label"].to_pylist()))
    seen = set()
    for index in range(len(table)):
        image = Image.open(io.BytesIO(table["image"][index].as_py())).convert("RGB")
        label = classes.index(table["label"][index].as_py())
        seen.add(label)
        assert image.size == (12, 12)
        # The colour gives the class: red, green or blue.
        assert int(np.asarray(image).mean(axis=(0, 1)).argmax()) == label
    assert seen == {0, 1, 2}


def test_rows_are_not_sorted_by_class(train_uri):
    labels = LanceSplit(train_uri).to_table(["label"])["label"].to_pylist()
    changes = sum(one != other for one, other in pairwise(labels))
    assert changes > len(TRAIN_COUNTS)


def test_row_order_does_not_depend_on_the_location(train_folder, train_uri, tmp_path):
    copy = shutil.copytree(train_folder, tmp_path / "copy")
    ingest_split(str(copy), "train", str(tmp_path / "copy.lance"))
    assert LanceSplit(str(tmp_path / "copy.lance")).to_table() == LanceSplit(train_uri).to_table()


def test_unchanged_content_makes_no_version(root, target):
    first = ingest_split(root, "train", target)
    again = ingest_split(root, "train", target)
    for path in Path(root, "train").glob("*/*.png"):
        os.utime(path, ns=(1, 1))
    touched = ingest_split(root, "train", target)
    assert again == touched
    assert (again.version, again.added, again.removed) == (first.version, 0, 0)
    assert (again.fingerprint, again.counts, again.channels) == (first.fingerprint, first.counts, first.channels)


def test_changes_make_exactly_one_version(root, target):
    first = ingest_split(root, "train", target)
    train = Path(root, "train")
    (train / "cat" / "000.png").write_bytes((train / "dog" / "001.png").read_bytes())
    (train / "cat" / "001.png").unlink()
    (train / "cat" / "002.png").unlink()
    shutil.copy(train / "dog" / "000.png", train / "dog" / "new.png")
    second = ingest_split(root, "train", target)
    assert (second.version, second.rows) == (first.version + 1, 10)
    # The changed file counts as both.
    assert (second.added, second.removed) == (2, 3)
    assert second.counts == {"cat": 4, "dog": 6}
    assert second.fingerprint != first.fingerprint
    assert by_path(target) == {os.path.relpath(path, train): path.read_bytes() for path in train.glob("*/*.png")}
    assert len(LanceSplit(target, first.version)) == 11


def test_a_moved_file_changes_its_label(root, target):
    ingest_split(root, "train", target)
    os.rename(Path(root, "train", "cat", "000.png"), Path(root, "train", "dog", "cat-000.png"))
    report = ingest_split(root, "train", target)
    assert (report.version, report.added, report.removed) == (2, 1, 1)
    assert report.counts == {"cat": 5, "dog": 6}


def test_restored_file_restores_the_fingerprint(root, target):
    first = ingest_split(root, "train", target)
    path = Path(root, "train", "cat", "000.png")
    data = path.read_bytes()
    path.unlink()
    assert ingest_split(root, "train", target).fingerprint != first.fingerprint
    path.write_bytes(data)
    assert ingest_split(root, "train", target).fingerprint == first.fingerprint


def test_splits_share_the_classes_of_train(root, tmp_path):
    write_image_folder(root, {"train": {"fox": 1}, "val": {"cat": 2, "fox": 1}})
    listing = list_split_folders(root, {"train": "train", "val": "val"})
    uri = str(tmp_path / "val.lance")
    files = pa.Table.from_pylist([f for f in listing.files.to_pylist() if f["split"] == "val"], LISTING_SCHEMA)
    report = ingest_split(root, "val", uri, files=files, classes=listing.classes)
    assert report.counts == {"cat": 2, "dog": 0, "fox": 1}
    assert LanceSplit(uri).classes == ["cat", "dog", "fox"]
    assert ingest_split(root, "val", uri, files=files, classes=listing.classes).version == report.version
    changed = ingest_split(root, "val", uri, files=files, classes=["ant", *listing.classes])
    assert (changed.version, changed.added, changed.removed) == (report.version + 1, 0, 0)


def test_split_and_folder_names_may_differ(root, target):
    ingest_split(root, "val", target, folder="train")
    assert set(LanceSplit(target).to_table(["split"])["split"].to_pylist()) == {"val"}


def test_progress_ends_at_the_total(root, target):
    calls = []
    ingest_split(root, "train", target, watch=Watch(progress=lambda done, total: calls.append((done, total))))
    assert calls[-1] == (11, 11)


_MEMORY = """
import json, resource, sys
import psutil
from lance_pipeline.images import ingest_split

root, target = sys.argv[1:]
memory = []
for folder in ("few", "many"):
    ingest_split(root, "train", f"{target}/{folder}.lance", folder=folder, threads=4)
    memory.append(psutil.Process().memory_info().rss)
print(json.dumps([*memory, 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="freed memory is returned on glibc only")
def test_memory_is_returned_after_an_ingest(tmp_path):
    for folder, size in (("few", 8), ("many", 2500)):
        for label in ("cat", "dog"):
            (tmp_path / folder / label).mkdir(parents=True)
            for number in range(8):
                image = Image.new("RGB", (size, size), (number, 0, 0))
                image.save(tmp_path / folder / label / f"{number}.bmp")
    command = [sys.executable, "-c", _MEMORY, str(tmp_path), str(tmp_path / "lance")]
    before, after, peak = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert peak - before > 100e6
    assert after - before < (peak - before) / 3


def test_odd_names_are_preserved_and_do_not_collide(root, target):
    rng = np.random.default_rng(1)
    base = os.path.join(os.fsencode(root), b"train", b"cat")
    contents = {}
    for name in ODD_NAMES:
        contents[name] = encoded(class_image(0, rng))
        with open(os.path.join(base, name), "wb") as file:
            file.write(contents[name])
    Path(root, "train", "a class %").mkdir()
    Path(root, "train", "a class %", "x.png").write_bytes(encoded(class_image(1, rng)))

    report = ingest_split(root, "train", target)
    assert report.rows == 11 + len(ODD_NAMES) + 1
    assert report.counts["a class %"] == 1
    table = LanceSplit(target).to_table()
    assert len(set(table["path"].to_pylist())) == report.rows
    assert set(contents.values()) <= set(table["image"].to_pylist())
    filename = {row["image"]: row["filename"] for row in table.to_pylist()}
    for name, data in contents.items():
        assert filename[data] == name.decode("utf-8", "backslashreplace")
    assert ingest_split(root, "train", target).version == report.version


def test_bytes_of_other_image_modes_are_unchanged(root, target):
    image = class_image(0, np.random.default_rng(0), (9, 5))
    files = {
        "grey.png": encoded(image.convert("L")),
        "palette.gif": encoded(image.convert("P"), "GIF"),
        "alpha.png": encoded(image.convert("RGBA")),
        "bit.png": encoded(image.convert("1")),
        "print.jpg": encoded(image.convert("CMYK"), "JPEG"),
    }
    for name, data in files.items():
        Path(root, "train", "cat", name).write_bytes(data)
    ingest_split(root, "train", target)
    stored = by_path(target)
    assert {name: stored[f"cat/{name}"] for name in files} == files


def test_unwritable_target(root, below_a_file):
    with pytest.raises(InputError, match=r"below.*LANCE_PIPELINE_DATA"):
        ingest_split(root, "train", below_a_file)


def test_missing_folder(tmp_path, target):
    with pytest.raises(InputError, match=r"/nothing\b"):
        ingest_split(str(tmp_path / "nothing"), "train", target)


def test_dataset_of_another_tool_is_not_overwritten(tmp_path: Path):
    write_image_folder(tmp_path / "raw", {"train": {"cat": 2, "dog": 2}})
    uri = str(tmp_path / "theirs.lance")
    lance.write_dataset(pa.table({"image": [b"x"], "label": ["cat"]}), uri)
    with pytest.raises(InputError, match=r"theirs\.lance"):
        ingest_split(str(tmp_path / "raw"), "train", uri)
    assert lance.dataset(uri).version == 1
