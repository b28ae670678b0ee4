import io

import numpy as np
import pytest
from PIL import Image

from lance_pipeline.images import LanceSplit
from lance_pipeline.images.pictures import class_counts_picture, contact_sheet
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


def test_contact_sheet_shows_the_rows(uri):
    split = LanceSplit(uri)
    sheet = np.asarray(opened(contact_sheet(split, count=10), "JPEG")).astype(int)
    # Two lines of eight places, each 80 pixels and a gap.
    assert sheet.shape == (2 * 82, 8 * 82, 3)
    labels = split.to_table(["label"])["label"].to_pylist()
    for position in range(10):
        y, x = position // 8 * 82, position % 8 * 82
        colour = sheet[y + 10 : y + 70, x + 10 : x + 70].mean(axis=(0, 1))
        row = position * len(split) // 10
        assert int(colour.argmax()) == split.classes.index(labels[row])
    # The places without an image are grey.
    assert abs(sheet[92:, 2 * 82 + 10 :] - 128).max() < 15


@pytest.mark.parametrize(("size", "images"), [(12, 3), ((300, 200), 30), ((300, 10), 4)])
def test_contact_sheet_of_other_sizes(tmp_path, size, images):
    root = write_image_folder(tmp_path / "root", {"train": {"cat": images, "dog": images}}, size=size)
    split = LanceSplit(ingest_folder(root, tmp_path / "lance")["train"])
    image = opened(contact_sheet(split), "JPEG")
    assert image.size == (8 * 82, 82 if images < 5 else 3 * 82)
    assert np.asarray(image).std() > 5


def test_bars_grow_with_the_counts():
    few = opened(class_counts_picture({"cat": 100, "dog": 1, "fox": 1}, "train"), "PNG")
    many = opened(class_counts_picture({"cat": 100, "dog": 100, "fox": 100}, "train"), "PNG")
    assert dark_pixels(many) > 2 * dark_pixels(few)


@pytest.mark.parametrize("classes", [2, 30, 31, 1000])
def test_counts_of_any_number_of_classes(classes):
    counts = {f"class {number}": number + 1 for number in range(classes)}
    assert dark_pixels(opened(class_counts_picture(counts, "train"), "PNG")) > 1000


def test_names_are_not_taken_for_formulas():
    assert dark_pixels(opened(class_counts_picture({"a$_x_$": 3, "$\\foo$": 2}, "train"), "PNG")) > 1000
