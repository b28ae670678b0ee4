"""Small datasets of real images, available offline."""

import gzip
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lance_pipeline.errors import InputError
from lance_pipeline.sources.sample import make_sample

FASHION = "/usr/share/datasets/fashion-mnist"
"""Where its package puts Fashion-MNIST."""
_FASHION_PACKAGE = "dataset-fashion-mnist"
# More than the number of images that can be used for training.
FASHION_VAL = 2_000


@dataclass(frozen=True)
class Source:
    """A dataset: its title, its description, and the settings that any recipe needs for it."""

    title: str
    about: str
    settings: Mapping[str, bool] = field(default_factory=dict)


SOURCES = {
    # A mirrored digit is another digit or none.
    "digits": Source(
        "handwritten digits", "scikit-learn's, of 8x8 pixels, `flip: false` in both recipes", {"flip": False}
    ),
    "fashion": Source(
        "Fashion-MNIST",
        f"28x28 pixels, the first images of its training set, and for validation the last {FASHION_VAL:,} of them",
    ),
}


def make_source(name: str, folder: str, images: int, fashion: str = FASHION) -> str:
    """The folder of a dataset of ``SOURCES`` as ``<split>/<label>/<image>``; created if it does not exist.

    Args:
        name: the name of the dataset.
        folder: the parent folder.
        images: the number of training images of Fashion-MNIST.
        fashion: the folder with the files of Fashion-MNIST.

    Raises:
        InputError: Fashion-MNIST is not installed, or has fewer images.
    """
    if name == "digits":
        root = os.path.join(folder, "digits")
        make_sample("digits", root)
        return root
    root = os.path.join(folder, f"fashion_{images}")
    if not os.path.isdir(root):
        _make_fashion(root, images, fashion)
    return root


def _make_fashion(root: str, images: int, fashion: str) -> None:
    """The first images of Fashion-MNIST's training set as ``train``, the last of them as ``val``, as 28x28 PNG."""
    pixels = _read_idx(fashion, "train-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)
    labels = _read_idx(fashion, "train-labels-idx1-ubyte.gz", 8)
    if not 0 < images <= len(labels) - FASHION_VAL:
        raise InputError(f"--images {images}: expected 1 to {len(labels) - FASHION_VAL}")
    os.makedirs(os.path.dirname(root), exist_ok=True)
    # The folder appears complete or not at all.
    work = tempfile.mkdtemp(prefix=".fashion-", dir=os.path.dirname(root))
    try:
        for split, numbers in (("train", range(images)), ("val", range(len(labels) - FASHION_VAL, len(labels)))):
            for label in range(10):
                os.makedirs(os.path.join(work, split, str(label)))
            for number in numbers:
                path = os.path.join(work, split, str(labels[number]), f"{number:05}.png")
                Image.fromarray(pixels[number]).save(path)
        os.rename(work, root)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _read_idx(folder: str, name: str, header: int) -> NDArray[np.uint8]:
    path = os.path.join(folder, name)
    try:
        with gzip.open(path) as file:
            return np.frombuffer(file.read(), np.uint8, offset=header)
    except FileNotFoundError as error:
        raise InputError(
            f"{path} is missing. Install Fashion-MNIST (MIT licence): apt-get install {_FASHION_PACKAGE}; or leave it "
            "out: --only digits"
        ) from error
