"""Fixtures: the dataset for tests of loaders."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lance_pipeline.images import LanceSplit, ingest_split
from lance_pipeline_tests.image_folders import class_image, encoded, write_image_folder
from lance_pipeline_tests.loader.loaders import COUNTS, ROWS


@pytest.fixture(scope="package", autouse=True)
def small_groups() -> Iterator[None]:
    """Make small groups, so that the few rows of a test form several groups."""
    with pytest.MonkeyPatch.context() as context:
        context.setattr("lance_pipeline.loader.epoch._GROUP_ROWS", 16)
        yield


@pytest.fixture(scope="package")
def uri(tmp_path_factory) -> str:
    """Photos of several sizes, as PNG and JPEG, after an ingest that removed rows."""
    root = Path(write_image_folder(tmp_path_factory.mktemp("raw"), {"train": COUNTS}, size=(32, 26)))
    for number, path in enumerate(sorted(root.rglob("*.png"))):
        if number % 3 == 0:
            Image.open(path).resize((30 + number, 64)).save(path.with_suffix(".jpg"), quality=95)
            path.unlink()
    for number in range(5):
        (root / "train" / "cat" / f"gone{number}.png").write_bytes(
            encoded(class_image(0, np.random.default_rng(number + 99)))
        )
    uri = str(tmp_path_factory.mktemp("lance") / "train.lance")
    ingest_split(str(root), "train", uri)
    for path in root.rglob("gone*"):
        path.unlink()
    assert ingest_split(str(root), "train", uri).rows == ROWS
    assert any(fragment.metadata.deletion_file for fragment in LanceSplit(uri).dataset.get_fragments())
    return uri
