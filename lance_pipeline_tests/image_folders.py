"""Image folders for tests: tiny random images, with a distinct colour for each class."""

import io
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

_COLOURS = ((220, 40, 40), (40, 200, 60), (50, 70, 220), (220, 210, 60), (200, 60, 210), (60, 210, 210))
_NOISE = 25
TRAIN_COUNTS = {"cat": 9, "dog": 8, "fox": 6}
"""Images per class in the split that tests share."""


def class_image(label_index: int, rng: np.random.Generator, size: int | tuple[int, int] = 12) -> Image.Image:
    """A random image in the colour of a class; ``size`` is the side, or (width, height)."""
    width, height = (size, size) if isinstance(size, int) else size
    colour = np.array(_COLOURS[label_index % len(_COLOURS)])
    noise = rng.integers(-_NOISE, _NOISE + 1, (height, width, 3))
    return Image.fromarray(np.clip(colour + noise, 0, 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    """The image, encoded as a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def write_image_folder(
    root: str | os.PathLike[str],
    counts: Mapping[str, Mapping[str, int]],
    size: int | tuple[int, int] = 12,
    seed: int = 0,
) -> str:
    """Write ``<root>/<split>/<class>/<number>.png`` and return the root as text.

    ``counts`` contains the images per split and class, as in ``{"train": {"cat": 6, "dog": 5}}``; a
    count of 0 creates an empty class folder, and the split ``""`` puts the classes directly below the
    root. A class has the same colour in all splits, and no two images are equal.
    """
    rng = np.random.default_rng(seed)
    labels = sorted({label for classes in counts.values() for label in classes})
    for split, classes in counts.items():
        for label, count in classes.items():
            folder = Path(root, split, label)
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                class_image(labels.index(label), rng, size).save(folder / f"{number:03d}.png")
    return os.fspath(root)


def ingest_folder(root: str, target: str | os.PathLike[str]) -> dict[str, str]:
    """Ingest every split below ``root`` as ``<target>/<split>.lance``; returns the URI of each."""
    from lance_pipeline.images import ingest_split

    uris = {split: os.path.join(target, f"{split}.lance") for split in sorted(os.listdir(root))}
    for split, uri in uris.items():
        ingest_split(root, split, uri)
    return uris
