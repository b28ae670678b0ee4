"""Generates image folders from a fixed seed; to an encoder, the images are like photographs."""

import io
import json
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SEED = 20240419
CLASSES = 10
# Increment this when the same seed would give different images than before.
_RECIPE = 1
_CHUNK = 250


@dataclass(frozen=True)
class Kind:
    """A kind of image: its encoding and its size in pixels."""

    name: str
    suffix: str
    width: int
    height: int

    @property
    def title(self) -> str:
        """The title for headings."""
        return f"{self.encoding} of {self.width}x{self.height}"

    @property
    def encoding(self) -> str:
        """The encoder's name."""
        return "PNG" if self.suffix == ".png" else "JPEG"


PNG = Kind("png", ".png", 32, 32)
JPEG = Kind("jpeg", ".jpg", 500, 375)
LARGE = Kind("large", ".jpg", 1600, 1200)
# The kinds on which the ingest is measured.
KINDS = {kind.name: kind for kind in (PNG, JPEG)}


def make_corpus(folder: str, kind: Kind, count: int) -> str:
    """The folder of a corpus of ``count`` images; generated unless it exists and is complete.

    Images are in ``<folder>/<kind>_<count>/train/<label>/``. A note beside the corpus, written last, marks it as
    complete.
    """
    root = os.path.join(folder, f"{kind.name}_{count}")
    note, facts = f"{root}.json", {"recipe": _RECIPE, "seed": SEED, "count": count}
    if os.path.isdir(root) and _read_note(note) == facts:
        return root
    shutil.rmtree(root, ignore_errors=True)
    write_splits(root, kind, {"train": count})
    with open(note, "w") as file:
        json.dump(facts, file)
    return root


def write_splits(root: str, kind: Kind, counts: Mapping[str, int]) -> None:
    """Write ``counts`` images of each split as ``<root>/<split>/<label>/<number>``, all different."""
    first = 0
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        for split, count in counts.items():
            for label in range(CLASSES):
                os.makedirs(os.path.join(root, split, label_name(label)))
            write = partial(_write_images, os.path.join(root, split), kind, first + count)
            for _ in pool.map(write, range(first, first + count, _CHUNK)):
                pass
            first += count


def label_name(number: int) -> str:
    """The class of the image with this number."""
    return f"class_{number % CLASSES}"


def encoded_image(kind: Kind, number: int) -> bytes:
    """The bytes of an image file, which depend only on kind and number."""
    rng = np.random.default_rng((SEED, number))
    buffer = io.BytesIO()
    Image.fromarray(_pixels(rng, kind.width, kind.height)).save(buffer, kind.encoding, quality=90)
    return buffer.getvalue()


def link_corpus(root: str, target: str, copies: int = 1) -> None:
    """Replicate a corpus below ``target`` with hard links, with ``copies`` names for each image."""
    shutil.rmtree(target, ignore_errors=True)
    for label in os.scandir(os.path.join(root, "train")):
        folder = os.path.join(target, "train", label.name)
        os.makedirs(folder)
        for entry in os.scandir(label.path):
            for copy in range(copies):
                os.link(entry.path, os.path.join(folder, f"{copy}_{entry.name}" if copy else entry.name))


def change_one_percent(root: str, kind: Kind) -> int:
    """Change 1 % of the images: replace a third of it, remove a third, add a third; returns the number of images."""
    paths = sorted(entry.path for label in os.scandir(os.path.join(root, "train")) for entry in os.scandir(label.path))
    changes = max(len(paths) // 100, 3)
    chosen = np.random.default_rng(SEED).permutation(len(paths))[:changes].tolist()
    replaced, removed = chosen[: changes // 3], chosen[changes // 3 : 2 * (changes // 3)]
    added = changes - len(replaced) - len(removed)
    for place in replaced + removed:
        # The files are hard links: writing to them would change the corpus itself.
        os.remove(paths[place])
    new = [paths[place] for place in replaced]
    new += [os.path.join(root, "train", label_name(number), f"new_{number}{kind.suffix}") for number in range(added)]
    for number, path in enumerate(new):
        with open(path, "wb") as file:
            file.write(encoded_image(kind, len(paths) + number))
    return len(paths) - len(removed) + added


def _read_note(path: str) -> object:
    try:
        with open(path) as file:
            return json.load(file)
    except (OSError, ValueError):
        return None


def _write_images(folder: str, kind: Kind, end: int, start: int) -> None:
    for number in range(start, min(start + _CHUNK, end)):
        with open(os.path.join(folder, label_name(number), f"{number:06}{kind.suffix}"), "wb") as file:
            file.write(encoded_image(kind, number))


def _pixels(rng: np.random.Generator, width: int, height: int) -> NDArray[np.uint8]:
    """Large soft blotches overlaid with smaller ones and sensor grain."""
    blotches = 0.75 * _soft_field(rng, width, height, 40) + 0.25 * _soft_field(rng, width, height, 8)
    grain = rng.standard_normal((height, width, 1), dtype=np.float32) * rng.uniform(4, 10)
    return np.clip(blotches + grain, 0, 255).astype(np.uint8)


def _soft_field(rng: np.random.Generator, width: int, height: int, scale: int) -> NDArray[np.float32]:
    size = (max(height // scale, 3), max(width // scale, 4), 3)
    coarse = Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)
