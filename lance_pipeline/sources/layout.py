"""What a folder of images looks like at first sight: its splits, its classes, how large its images are."""

import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from PIL import Image

from lance_pipeline.errors import InputError
from lance_pipeline.imaging.decoding import KNOWN_FORMATS
from lance_pipeline.sources.scanning import folder_exists, subfolders
from lance_pipeline.storage.object_store import is_remote, join_uri

SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
"""What people call the folders of the splits, in small letters."""
_PER_CLASS = 20


@dataclass(frozen=True)
class Layout:
    """What was found.

    Attributes:
        folder: that was looked at, a path or an object-store URI.
        splits: the folder of each split, as far as there are any.
        classes: the folders of classes; those of train where there are splits.
        side: the median of the shorter sides of some of the images, in pixels; None where none could be looked at.
    """

    folder: str
    splits: dict[str, str]
    classes: list[str]
    side: int | None


def layout_of(folder: str) -> Layout:
    """Look at a folder, without reading more than the headers of a few images.

    Args:
        folder: a path or an object-store URI; of the latter no images are looked at.

    Raises:
        InputError: there is no such folder, or no folders in it.
    """
    if not folder_exists(folder):
        raise InputError(f"there is no folder {folder}. Expected one that holds a folder of images for each class.")
    found = subfolders(folder)
    splits = {split: name for split, names in SPLIT_NAMES.items() for name in found if name.lower() in names}
    of_classes = join_uri(folder, splits["train"]) if "train" in splits else folder
    classes = subfolders(of_classes)
    if not classes:
        raise InputError(
            f"{of_classes} holds no folders. Expected one for each class, with its images: "
            f"{of_classes}/<class>/<image>."
        )
    return Layout(folder, splits, classes, None if is_remote(folder) else _usual_side(of_classes, classes))


def _usual_side(folder: str, classes: list[str]) -> int | None:
    files = (path for label in classes for path in islice(_files(os.path.join(folder, label)), _PER_CLASS))
    sides = [side for path in files if (side := _side(path)) is not None]
    return int(np.median(sides)) if sides else None


def _files(folder: str) -> Iterator[str]:
    for place, _, names in os.walk(folder):
        yield from (os.path.join(place, name) for name in names if os.path.isfile(os.path.join(place, name)))


def _side(path: str) -> int | None:
    """The shorter side of an image, by its header; None where that is none."""
    try:
        with warnings.catch_warnings():
            # An image that is too large is refused when it is ingested.
            warnings.simplefilter("ignore")
            with Image.open(path, formats=KNOWN_FORMATS) as image:
                return min(image.size)
    except Exception:  # noqa: BLE001 - whatever Pillow raises of broken bytes: the ingest says what is wrong with a file
        return None
