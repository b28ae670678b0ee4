import io

import numpy as np
import pytest
from PIL import Image

from lance_pipeline.images import LanceSplit
from lance_pipeline.imaging.pictures import class_counts_picture, contact_sheet
from lance_pipeline.imaging.thumbnails import rows_of_each_class, samples
from lance_pipeline_tests.image_folders import ingest_folder, write_image_folder

LIMIT = 100_000


def opened(data: bytes, kind: str) -> Image.Image:
    assert len(data) < LIMIT
    image = Image.open(io.BytesIO(data))
    assert image.format == kind
    image.load()
    return image


def dark_pixels(image: Image.Image) -> int:
    return int((np.asarray(image.convert("L")) < 160).sum())


def sheet_of(split: LanceSplit, count: int) -> bytes:
    return contact_sheet(samples(split, rows_of_each_class(split, count)))


def test_contact_sheet_shows_some_of_each_class_with_labels(train_uri):
    split = LanceSplit(train_uri)
    sheet = np.asarray(opened(sheet_of(split, 10), "JPEG")).astype(int)
    # Two rows of eight cells, each with an image of 80 pixels and a label below.
    assert sheet.shape == (2 * 100, 8 * 86, 3)
    for position in range(10):
        y, x = position // 8 * 100, position % 8 * 86
        colour = sheet[y + 10 : y + 70, x + 10 : x + 70].mean(axis=(0, 1))
        # In class order, balanced over the classes.
        assert int(colour.argmax()) == [0, 0, 0, 0, 1, 1, 1, 2, 2, 2][position]
        assert (sheet[y + 82 : y + 98, x : x + 80] < 140).any()
    assert (sheet[110:, 2 * 86 + 8 :] > 230).all()


def test_samples_are_balanced_over_the_classes(tmp_path):
    counts = {"rare": 2, "common": 50, "other": 9}
    split = LanceSplit(ingest_folder(write_image_folder(tmp_path / "root", {"train": counts}), tmp_path)["train"])
    labels = split.to_table(["label"])["label"].to_pylist()
    for count, expected in ((3, [1, 1, 1]), (12, [5, 5, 2]), (2, [1, 1, 0]), (100, [50, 9, 2]), (0, [0, 0, 0])):
        rows = rows_of_each_class(split, count)
        assert len(set(rows)) == len(rows)
        chosen = [labels[row] for row in rows]
        assert chosen == sorted(chosen)
        assert [chosen.count(label) for label in split.classes] == expected


@pytest.mark.parametrize(("size", "images"), [(12, 3), ((300, 200), 30), ((300, 10), 4)])
def test_contact_sheet_of_other_sizes(tmp_path, size, images):
    root = write_image_folder(tmp_path / "root", {"train": {"cat": images, "dog": images}}, size=size)
    split = LanceSplit(ingest_folder(root, tmp_path / "lance")["train"])
    image = opened(sheet_of(split, 24), "JPEG")
    assert image.size == (min(8, 2 * images) * 86, 100 if images < 5 else 3 * 100)
    assert np.asarray(image).std() > 5


def test_bars_grow_with_the_counts():
    few = opened(class_counts_picture({"cat": 100, "dog": 1, "fox": 1}, "train"), "PNG")
    many = opened(class_counts_picture({"cat": 100, "dog": 100, "fox": 100}, "train"), "PNG")
    assert dark_pixels(many) > 2 * dark_pixels(few)


@pytest.mark.parametrize("classes", [2, 30, 31, 1000])
def test_counts_of_any_number_of_classes(classes):
    counts = {f"class {number}": number + 1 for number in range(classes)}
    assert dark_pixels(opened(class_counts_picture(counts, "train"), "PNG")) > 1000


def test_names_are_not_parsed_as_formulas():
    assert dark_pixels(opened(class_counts_picture({"a$_x_$": 3, "$\\foo$": 2}, "train"), "PNG")) > 1000
