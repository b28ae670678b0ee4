import io

import numpy as np
import pytest
from PIL import Image

from lance_pipeline.quality import findings as quality
from lance_pipeline.quality.evidence import MAX_BYTES, evidence_sheet
from lance_pipeline_tests.quality.small_splits import noise, small_split

RED, GREEN, BLUE = (200, 30, 30), (30, 160, 30), (30, 30, 200)


def plain(colour, size=(20, 20)):
    return Image.new("RGB", size, colour)


def decode(data):
    assert len(data) <= MAX_BYTES
    image = Image.open(io.BytesIO(data))
    assert image.format == "JPEG"
    return np.asarray(image).astype(int)


def colour_at(sheet, x, y):
    """The mean colour of 40 x 40 pixels inside a thumbnail of 112 whose corner is at (x, y)."""
    return sheet[y + 36 : y + 76, x + 36 : x + 76].mean(axis=(0, 1))


def is_near(colour, expected):
    return np.abs(colour - np.array(expected)).max() < 12


@pytest.fixture
def splits(tmp_path):
    train = [("cat", "cat/0.png", plain(GREEN)), ("cat", "cat/1.png", plain(RED)), ("dog", "dog/2.png", plain(BLUE))]
    test = [("dog", "dog/0.png", plain(BLUE)), ("cat", "cat/1.png", plain((90, 90, 90))), ("dog", "dog/2", plain(RED))]
    return {"train": small_split(tmp_path, "train", train), "test": small_split(tmp_path, "test", test)}


@pytest.fixture
def leaked(splits):
    indices = {name: quality.image_index({name: split}) for name, split in splits.items()}
    return quality.leakage(indices["test"], indices["train"])


def test_pairs_are_side_by_side(leaked, splits):
    assert len(leaked) == 2
    sheet = decode(evidence_sheet(leaked, splits))
    # Two pairs, each of two thumbnails of 112 pixels, 4 apart, with a margin of 16 around each pair.
    assert sheet.shape == (112 + 32 + 2 * 16, 2 * (2 * 112 + 4) + 3 * 16, 3)
    for x, colour in ((16, BLUE), (132, BLUE), (260, RED), (376, RED)):
        assert is_near(colour_at(sheet, x, 16), colour)
    assert (sheet[:, 2:12] > 240).all()


def test_different_labels_are_red(leaked, splits):
    sheet = decode(evidence_sheet(leaked, splits))
    captions = sheet[16 + 112 + 3 : 16 + 112 + 16]
    redness = captions[:, :, 0] - captions[:, :, 1:].max(axis=2)
    # The first pair is dog and dog, the second dog and cat.
    assert redness[:, 16:244].max() < 40
    assert redness[:, 260:372].max() > 60
    assert redness[:, 376:].max() > 60
    assert (captions[:, 16:132].min(axis=2) < 120).sum() > 40


def test_captions_show_split_label_and_file_name(splits):
    table = quality.image_index(splits)
    train, test = (decode(evidence_sheet(table.slice(start, 1), splits)) for start in (2, 3))
    same = decode(evidence_sheet(table.slice(3, 1), splits))
    assert np.array_equal(test, same)
    # Both are blue dogs, in different splits (first line) and with different names (second line).
    assert np.abs(train[16:128] - test[16:128]).max() < 8
    assert np.abs(train[130:144] - test[130:144]).max() > 100
    assert np.abs(train[145:158] - test[145:158]).max() > 100


def test_single_images_are_in_one_row(splits):
    sheet = decode(evidence_sheet(quality.image_index(splits), splits))
    assert sheet.shape == (112 + 32 + 2 * 16, 6 * 128 + 16, 3)
    for number, colour in enumerate((GREEN, RED, BLUE, BLUE, (90, 90, 90), RED)):
        assert is_near(colour_at(sheet, 16 + 128 * number, 16), colour)


def test_examples_are_spread_over_the_list(tmp_path):
    images = [("cat", f"cat/{n}", plain((10 * n, 0, 0))) for n in range(20)]
    splits = {"train": small_split(tmp_path, "train", images)}
    sheet = decode(evidence_sheet(quality.image_index(splits), splits, count=4))
    assert [round(colour_at(sheet, 16 + 128 * n, 16)[0] / 10) for n in range(4)] == [0, 5, 10, 15]


def test_many_pairs_of_noise_with_long_names_are_small(tmp_path):
    images = [
        ("a\nvery $strange$ label 日本 " * 9, f"x/{'long' * 40}-{n}.png", noise(n % 40, (200, 150))) for n in range(80)
    ]
    splits = {"train": small_split(tmp_path, "train", images)}
    pairs = quality.duplicates(quality.image_index(splits))
    assert len(pairs) == 40
    sheet = decode(evidence_sheet(pairs, splits, count=8))
    assert sheet.shape == (2 * (112 + 32 + 16) + 16, 4 * 244 + 16, 3)
    assert sheet[16:128, 16:128].std() > 30
    assert sheet[176:288, 16:128].std() > 30
    # The captions are no wider than their thumbnails.
    assert (sheet[16 + 112 + 4 : 16 + 112 + 30, 16 + 2 * 112 + 4 + 4 : 16 + 244 - 4] > 200).all()


def test_long_file_names_show_their_ends(tmp_path):
    images = [("a", f"a/{'long' * 20}{n}.png", plain(BLUE)) for n in (0, 8)]
    splits = {"train": small_split(tmp_path, "train", images)}
    index = quality.image_index(splits)
    left, right = (decode(evidence_sheet(index.slice(start, 1), splits)) for start in (0, 1))
    assert np.abs(left - right).max() > 50


@pytest.mark.parametrize("size", [(400, 20), (20, 400), (1, 1)])
def test_images_keep_their_aspect_ratio(tmp_path, size):
    splits = {"train": small_split(tmp_path, "train", [("a", "a", plain(BLUE, size))])}
    sheet = decode(evidence_sheet(quality.image_index(splits), splits))
    blue = sheet[16:128, 16:128, 2] - sheet[16:128, 16:128, 0] > 100
    expected = min(size) / max(size)
    assert abs(blue.mean() - expected) < 0.03
    # The rest of the thumbnail is light grey.
    assert size == (1, 1) or is_near(sheet[18:26, 18:26].mean(axis=(0, 1)), (236, 236, 236))


def test_empty_list_has_no_sheet(splits, leaked):
    with pytest.raises(ValueError, match="empty"):
        evidence_sheet(leaked.slice(0, 0), splits)
