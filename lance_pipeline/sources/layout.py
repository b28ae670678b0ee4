"""A quick look at a folder of images: its splits, classes and image sizes."""

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
from lance_pipeline.storage.uris import Place, normalized_uri

SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
"""Common names of split folders, in lower case."""
_PER_CLASS = 20


@dataclass(frozen=True)
class Layout:
    """The layout of a folder of images.

    Attributes:
        folder: its path or object-store URI.
        splits: the folder of each split that was found.
        classes: the class folders; those of train if there are splits.
        side: the median of the shorter sides of a sample of images, in pixels; None if none could be read.
    """

    folder: str
    splits: dict[str, str]
    classes: list[str]
    side: int | None


def layout_of(place: Place) -> Layout:
    """Examine a folder, reading only the headers of a few images.

    Args:
        place: a path or an object-store URI; in an object store no images are read.

    Raises:
        InputError: the folder does not exist, or has no subfolders.
    """
    folder = normalized_uri(place)
    if not folder_exists(folder):
        raise InputError(f"there is no folder {folder}. Expected a folder with one folder of images per class.")
    found = subfolders(folder)
    splits = {split: name for split, names in SPLIT_NAMES.items() for name in found if name.lower() in names}
    of_classes = join_uri(folder, splits["train"]) if "train" in splits else folder
    classes = subfolders(of_classes)
    if not classes:
        raise InputError(
            f"{of_classes} contains no folders. Expected one per class, with its images: {of_classes}/<class>/<image>."
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
    """The shorter side of an image by its header; None if it cannot be read."""
    try:
        with warnings.catch_warnings():
            # Images that are too large are rejected later, by the ingest.
            warnings.simplefilter("ignore")
            with Image.open(path, formats=KNOWN_FORMATS) as image:
                return min(image.size)
    except Exception:  # noqa: BLE001 - Pillow raises many types for damaged files; the ingest reports what is wrong
        return None
