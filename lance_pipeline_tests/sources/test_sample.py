import errno
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from lance_pipeline.errors import InputError
from lance_pipeline.sources import sample
from lance_pipeline.sources.listing import list_split_folders


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample") / "raw" / "digits"
    assert sample.make_sample("digits", str(folder))
    return folder


def test_digits_can_be_listed(digits):
    listing = list_split_folders(str(digits), {"train": "train", "val": "val", "test": "test"})
    assert listing.classes == [str(digit) for digit in range(10)]
    counts = {split: sum(labels.values()) for split, labels in listing.counts().items()}
    assert counts == {"train": 1257, "val": 270, "test": 270}
    for split, labels in listing.counts().items():
        # About a tenth each, because the digits are split within each class.
        assert all(counts[split] * 0.08 < count < counts[split] * 0.12 for count in labels.values())


def test_digits_equal_scikit_learns(digits):
    pixels, labels = load_digits(return_X_y=True)
    files = {int(path.stem): path for path in digits.glob("*/*/*.png")}
    assert sorted(files) == list(range(1797))
    for number in range(0, 1797, 200):
        assert files[number].parent.name == str(labels[number])
        with Image.open(files[number]) as image:
            assert (image.mode, image.size) == ("L", (8, 8))
            values = np.asarray(image, dtype=float).ravel() * 16 / 255
        assert np.allclose(values, pixels[number], atol=0.04)


def test_an_existing_folder_is_not_changed(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    assert not sample.make_sample("digits", str(tmp_path))
    assert os.listdir(tmp_path) == ["mine.txt"]


def test_no_temporary_files_remain(digits):
    assert os.listdir(digits.parent) == ["digits"]
    assert sorted(os.listdir(digits)) == ["test", "train", "val"]


def test_a_partial_sample_is_removed(tmp_path, monkeypatch):
    def interrupted(folder: Path) -> int:
        (folder / "train").mkdir()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setitem(sample.SAMPLES, "interrupted", interrupted)
    with pytest.raises(InputError, match=f"'interrupted'.*{tmp_path / 'raw'}"):
        sample.make_sample("interrupted", str(tmp_path / "raw"))
    assert os.listdir(tmp_path) == []


def test_unwritable(below_a_file):
    with pytest.raises(InputError, match=r"'digits'.*/below\b.*LANCE_PIPELINE_DATA"):
        sample.make_sample("digits", below_a_file)


def test_command_line_refuses_an_existing_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["sample", "digits", str(tmp_path)])
    with pytest.raises(SystemExit) as caught:
        sample.main()
    assert caught.value.code == 2
    assert str(tmp_path) in capsys.readouterr().err
