import os
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image

from lance_pipeline.display import from_csv_cell
from lance_pipeline.errors import InputError
from lance_pipeline.quality import findings as quality
from lance_pipeline_tests.quality.small_splits import noise, small_split

PAIR = ["split", "label", "path", "other_split", "other_label", "other_path", "row", "other_row"]


def table_of(rows, split="train"):
    """An index of rows (label, path, width, height, name of the pixels, perceptual hash)."""
    labels, paths, widths, heights, pixels, hashes = zip(*rows, strict=True) if rows else [()] * 6
    return pa.table(
        {
            "split": pa.array([split] * len(rows), pa.string()),
            "label": pa.array(labels, pa.string()),
            "path": pa.array(paths, pa.string()),
            "width": pa.array(widths, pa.int32()),
            "height": pa.array(heights, pa.int32()),
            "pixel_digest": pa.array([name.encode().ljust(16) for name in pixels], pa.binary(16)),
            "perceptual_hash": pa.array(hashes, pa.uint64()),
            "row": pa.array(range(len(rows)), pa.int64()),
        }
    )


def pixels_of(labelled, split="train"):
    """An index of images, each given by a letter for its class and one for its pixels, such as ``["ax", "bx"]``."""
    return table_of([(both[0], f"{both[0]}/{n}", 8, 8, both[1], 0) for n, both in enumerate(labelled)], split)


def sizes_of(sizes, split="train"):
    return table_of([("a", f"a/{n}", w, h, str(n), 0) for n, (w, h) in enumerate(sizes)], split)


def hashes_of(hashes, split="train", pixels=None):
    pixels = pixels or [f"{split}{n}" for n in range(len(hashes))]
    return table_of([("a", f"a/{n}", 8, 8, pixels[n], value) for n, value in enumerate(hashes)], split)


def rows_of(table):
    """The pairs of row numbers."""
    return list(zip(table["row"].to_pylist(), table["other_row"].to_pylist(), strict=True))


def test_index_of_two_splits(tmp_path):
    images = [("cat", "cat/ä\n.png", noise(1)), ("dog", "dog/1.png", noise(2, (30, 10)))]
    splits = {
        "train": small_split(tmp_path, "train", images),
        "held out": small_split(tmp_path, "val", [("cat", "cat/1.png", noise(1))]),
    }
    index = quality.image_index(splits)
    assert index["split"].to_pylist() == ["train", "train", "held out"]
    assert index["label"].to_pylist() == ["cat", "dog", "cat"]
    assert index["path"].to_pylist() == ["cat/ä\n.png", "dog/1.png", "cat/1.png"]
    assert index["row"].to_pylist() == [0, 1, 0]
    assert index["width"].to_pylist() == [24, 30, 24]
    assert index["height"].to_pylist() == [20, 10, 20]
    assert "image" not in index.column_names
    deviations = [np.asarray(image).std(axis=(0, 1)).max() for _, _, image in (*images, images[0])]
    assert index["deviation"].to_pylist() == pytest.approx(deviations)
    found = quality.duplicates(index)
    assert found.column_names == PAIR
    assert found.to_pylist() == [
        dict(zip(PAIR, ["held out", "cat", "cat/1.png", "train", "cat", "cat/ä\n.png", 0, 0], strict=True))
    ]


@pytest.mark.parametrize(
    ("images", "pairs"),
    [
        ([], []),
        (["ax"], []),
        (["ax", "ay", "bz"], []),
        (["ax", "ay", "ax", "bx", "ay", "ax"], [(2, 0), (3, 0), (4, 1), (5, 0)]),
    ],
)
def test_duplicates(images, pairs):
    assert rows_of(quality.duplicates(pixels_of(images))) == pairs


def test_duplicates_are_no_more_than_the_images():
    found = quality.duplicates(pixels_of(["ax"] * 50_000))
    assert len(found) == 49_999
    assert set(found["other_row"].to_pylist()) == {0}


@pytest.mark.parametrize(
    ("images", "others", "pairs"),
    [
        ([], ["ax"], []),
        (["ax"], [], []),
        (["ax", "ay"], ["az"], []),
        # One row for each image of the first index, even if its pixels come twice in either index.
        (["ax", "by", "bx", "az"], ["au", "bx", "ax", "bz"], [(0, 1), (2, 1), (3, 3)]),
    ],
)
def test_leakage(images, others, pairs):
    found = quality.leakage(pixels_of(images, "test"), pixels_of(others, "train"))
    assert rows_of(found) == pairs
    assert found.column_names == PAIR
    assert set(found["split"].to_pylist()) <= {"test"}
    assert set(found["other_split"].to_pylist()) <= {"train"}


def test_leakage_has_at_most_one_row_per_image():
    found = quality.leakage(pixels_of(["ax"] * 3000, "test"), pixels_of(["ax"] * 3000, "train"))
    assert len(found) == 3000


@pytest.mark.parametrize(
    ("images", "pairs"),
    [
        ([], []),
        (["ax", "ax", "by"], []),
        (["ax", "by", "bx", "ax", "cx", "by"], [(2, 0), (4, 0)]),
    ],
)
def test_label_conflicts_within_a_split(images, pairs):
    found = quality.label_conflicts(pixels_of(images))
    assert rows_of(found) == pairs
    assert all(row["label"] != row["other_label"] for row in found.to_pylist())


def test_label_conflicts_across_splits():
    both = pa.concat_tables([pixels_of(["ax", "ay"], "train"), pixels_of(["by", "ax"], "val")])
    assert quality.label_conflicts(both).select(PAIR[:6]).to_pylist() == [
        dict(zip(PAIR, ["val", "b", "b/0", "train", "a", "a/1"], strict=False))
    ]


def test_near_duplicates():
    index = hashes_of([0b0, 2**64 - 1, 0b1111, 0b11111, 2**63, 0b0], pixels=["a", "b", "c", "d", "e", "a"])
    found = quality.near_duplicates(index)
    # 5 has the same pixels as 0, so it is not a near duplicate; 3 is too far from 0 but near 2.
    assert rows_of(found) == [(2, 0), (3, 2), (4, 0)]
    assert found["bits"].to_pylist() == [4, 1, 1]
    assert found.column_names == [*PAIR, "bits"]
    assert rows_of(quality.near_duplicates(index, 0)) == []
    assert rows_of(quality.near_duplicates(index, 1)) == [(3, 2), (4, 0)]


def test_near_duplicates_after_an_exact_copy():
    index = hashes_of([0, 0, 2**40 - 1, 1], pixels=["a", "a", "b", "c"])
    assert rows_of(quality.near_duplicates(index)) == [(3, 0)]
    index = hashes_of([0, 0, 2**40 - 1, 2**40 - 2], pixels=["a", "a", "b", "c"])
    assert rows_of(quality.near_duplicates(index)) == [(3, 2)]


def test_near_duplicates_of_an_empty_index():
    assert len(quality.near_duplicates(hashes_of([]))) == 0
    assert quality.near_duplicates(hashes_of([])).column_names == [*PAIR, "bits"]


def test_equal_hashes_of_different_pixels_are_near_duplicates():
    found = quality.near_duplicates(hashes_of([5] * 1000))
    assert rows_of(found) == [(row, 0) for row in range(1, 1000)]
    assert set(found["bits"].to_pylist()) == {0}


def test_near_leakage():
    train = hashes_of([2**64 - 1, 0b1, 0b0], "train", pixels=["a", "b", "c"])
    test = hashes_of([0b0, 0b0, 0xFF << 20, 0b11, 0xFF << 20], "test", pixels=["c", "d", "e", "f", "g"])
    found = quality.near_leakage(test, train)
    # 0 has the same pixels as 2 of train; 2 and 4 look alike, but both are in test.
    assert rows_of(found) == [(1, 2), (3, 1)]
    assert found["bits"].to_pylist() == [0, 1]
    assert set(found["other_split"].to_pylist()) == {"train"}
    assert len(quality.near_leakage(hashes_of([]), train)) == len(quality.near_leakage(test, hashes_of([]))) == 0


def test_darker_and_resized_image_is_a_near_duplicate(tmp_path):
    smooth = noise(3, (9, 8)).resize((90, 80), Image.Resampling.BILINEAR)
    darker = smooth.point(lambda value: value * 0.9)
    other = noise(4, (9, 8)).resize((90, 80), Image.Resampling.BILINEAR)
    images = [("a", "a/1", smooth), ("a", "a/2", other), ("b", "b/3", darker.resize((60, 50)))]
    index = quality.image_index({"train": small_split(tmp_path, "train", images)})
    assert rows_of(quality.near_duplicates(index)) == [(2, 0)]
    assert len(quality.duplicates(index)) == 0


def test_class_counts():
    counts = quality.class_counts(pixels_of(["cu", "bx", "ay", "bz"]), classes=["d", "b"])
    assert counts.to_pydict() == {
        "label": ["b", "a", "c", "d"],
        "count": [2, 1, 1, 0],
        "share": [0.5, 0.25, 0.25, 0],
    }
    assert quality.class_counts(pixels_of([]), classes=["a"]).to_pydict() == {
        "label": ["a"],
        "count": [0],
        "share": [0],
    }
    assert quality.class_counts(pixels_of([])).schema == counts.schema


@pytest.mark.parametrize(
    ("images", "classes", "ratio"),
    [
        (["ax", "ay", "az", "bx", "bz"], (), 1.5),
        (["ax", "ay"], (), 1),
        (["ax", "ay"], ("b",), float("inf")),
        ([], ("a", "b"), 1),
        ([], (), 1),
    ],
)
def test_imbalance(images, classes, ratio):
    assert quality.imbalance(quality.class_counts(pixels_of(images), classes)) == ratio


def test_small_classes():
    counts = quality.class_counts(pixels_of(["ax", "ay", "az", "bx", "bz", "cx"]), classes=["d"])
    assert quality.small_classes(counts, 2)["label"].to_pylist() == ["c", "d"]
    assert quality.small_classes(counts, 3)["label"].to_pylist() == ["b", "c", "d"]
    assert len(quality.small_classes(counts, 0)) == 0


def test_odd_sizes():
    usual = [(100, 100), (90, 110), (120, 80)] * 5
    odd = {(24, 24): "small", (410, 410): "large", (50, 250): "narrow", (250, 50): "wide"}
    found = quality.odd_sizes(sizes_of([*odd, *usual]))
    assert dict(zip(zip(*(found[name].to_pylist() for name in ("width", "height")), strict=True),
                    found["oddity"].to_pylist(), strict=True)) == odd  # fmt: skip
    assert found.column_names == ["split", "label", "path", "oddity", "width", "height", "row"]
    assert found["row"].to_pylist() == [0, 1, 2, 3]


@pytest.mark.parametrize("size", [(25, 25), (400, 400), (60, 180), (180, 60)])
def test_sizes_at_the_limit_are_not_odd(size):
    assert len(quality.odd_sizes(sizes_of([(100, 100)] * 3 + [size]))) == 0


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("sizes", [[], [(7, 900)], [(10, 10)] * 4])
def test_similar_sizes_are_not_odd(sizes):
    assert len(quality.odd_sizes(sizes_of(sizes))) == 0


def test_smaller_images():
    index = sizes_of([(32, 32), (31, 64), (64, 31), (500, 500)])
    found = quality.smaller_images(index, 32)
    assert found["row"].to_pylist() == [1, 2]
    assert found.column_names == ["split", "label", "path", "width", "height", "row"]


STRANGE = [
    "plain",
    'a "quoted", one',
    "two\nlines",
    "carriage\r\nreturn",
    "ÅÄ 日本 🐈",
    "007",
    "NA",
    "",
    " ",
    "=1+1",
    "a;b\tc",
]


def test_csv_preserves_names(tmp_path):
    table = table_of([(name, f"{name}/{n}.png", n, 2, "x", 0) for n, name in enumerate(STRANGE)])
    path = os.fspath(tmp_path / "deep" / "er" / "list.csv")
    rows = quality.duplicates(table)
    quality.write_csv(rows, path)
    frame = pd.read_csv(path, dtype={"label": str, "other_label": str}, keep_default_na=False)
    assert list(frame.columns) == PAIR
    assert frame["label"].map(from_csv_cell).tolist() == STRANGE[1:]
    assert frame["path"].map(from_csv_cell).tolist() == [f"{name}/{n}.png" for n, name in enumerate(STRANGE)][1:]
    assert frame["row"].tolist() == list(range(1, len(STRANGE)))
    assert os.listdir(tmp_path / "deep" / "er") == ["list.csv"]


def test_csv_is_replaced_and_may_be_empty(tmp_path):
    path = tmp_path / "list.csv"
    quality.write_csv(quality.duplicates(pixels_of(["ax", "ax"])), os.fspath(path))
    quality.write_csv(quality.duplicates(pixels_of([])), os.fspath(path))
    assert path.read_text() == ",".join(f'"{name}"' for name in PAIR) + "\n"


def test_csv_of_shares(tmp_path):
    counts = quality.class_counts(pixels_of(["ax", "bx", "by"]))
    quality.write_csv(counts, os.fspath(tmp_path / "list.csv"))
    assert np.allclose(pd.read_csv(tmp_path / "list.csv")["share"], [2 / 3, 1 / 3])


def test_csv_below_a_file(below_a_file):
    with pytest.raises(InputError, match=r"below/list\.csv"):
        quality.write_csv(pixels_of([]), f"{below_a_file}/list.csv")


def test_failed_csv_leaves_the_previous_file(tmp_path, monkeypatch):
    path = tmp_path / "list.csv"
    path.write_text("before")

    def full(rows, file):
        Path(file).write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(quality.csv, "write_csv", full)
    with pytest.raises(InputError, match="no space left"):
        quality.write_csv(pixels_of([]), os.fspath(path))
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["list.csv"]


def test_plain_images(tmp_path):
    """Images of one colour are found in spite of compression artefacts; faint or small content is not plain."""
    size = (32, 32)
    blurred, faint, dot = Image.new("RGB", size, (250, 250, 250)), *(Image.new("RGB", size, "white") for _ in "12")
    blurred.putpixel((3, 3), (255, 250, 250))
    faint.paste((225, 225, 225), (8, 8, 24, 24))
    dot.paste("black", (0, 0, 3, 3))
    images = [
        ("cat", "black.png", Image.new("RGB", size)),
        ("cat", "red.png", Image.new("RGB", size, "red")),
        ("cat", "blurred.png", blurred),
        ("cat", "faint.png", faint),
        ("cat", "dot.png", dot),
        ("cat", "noise.png", noise(1)),
    ]
    index = quality.image_index({"train": small_split(tmp_path, "train", images)})
    found = quality.plain_images(index)
    assert found["path"].to_pylist() == ["black.png", "red.png", "blurred.png"]
    assert found["row"].to_pylist() == [0, 1, 2]
    assert not len(quality.plain_images(index, 0))
