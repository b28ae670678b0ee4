"""Sample datasets that require no network.

Can also be run by hand: ``python -m lance_pipeline.sources.sample digits data/raw/digits``
"""

import argparse
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from lance_pipeline.errors import InputError

# The pixels of scikit-learn's digits are counts of set bits in 4x4 blocks, 0 to 16.
_DIGITS_MAXIMUM = 16


def export_digits(folder: Path) -> int:
    """Write scikit-learn's 1,797 handwritten digits as 8x8 greyscale PNG files; returns their number.

    The layout is ``<folder>/<train|val|test>/<digit>/<number>.png``, split 70/15/15 within each
    digit. Source: the test set of the UCI "Optical Recognition of Handwritten Digits" data.
    """
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    images = np.round(pixels.reshape(-1, 8, 8) * 255 / _DIGITS_MAXIMUM).astype(np.uint8)
    train, rest = train_test_split(np.arange(len(labels)), train_size=0.7, stratify=labels, random_state=0)
    val, test = train_test_split(rest, train_size=0.5, stratify=labels[rest], random_state=0)
    for split, members in {"train": train, "val": val, "test": test}.items():
        for number in members:
            path = folder / split / str(labels[number]) / f"{number:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images[number]).save(path)
    return len(images)


SAMPLES: dict[str, Callable[[Path], int]] = {"digits": export_digits}


def make_sample(name: str, folder: str) -> bool:
    """Create the sample at ``folder`` unless it exists; returns whether it was created.

    The folder is created atomically.

    Raises:
        InputError: the folder cannot be written.
    """
    target = Path(folder)
    if target.exists():
        return False
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        try:
            SAMPLES[name](work)
            work.chmod(0o755)
            os.rename(work, target)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        raise InputError(
            f"cannot write the sample {name!r} to {folder}: {error}. Choose a folder that you may write to; "
            "LANCE_PIPELINE_DATA moves all data elsewhere."
        ) from error
    return True


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Make a sample dataset as folders of images.")
    parser.add_argument("sample", choices=sorted(SAMPLES))
    parser.add_argument("folder", help="the folder to make; it must not exist yet")
    arguments = parser.parse_args()
    if not make_sample(arguments.sample, arguments.folder):
        parser.error(f"{arguments.folder} exists already; remove it or name another folder")
    print(f"{arguments.sample} is at {arguments.folder}")


if __name__ == "__main__":
    main()
