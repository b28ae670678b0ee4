import os
from pathlib import Path

import pytest

from lance_pipeline.images import LanceSplit
from lance_pipeline_tests.image_folders import ingest_folder, write_image_folder


@pytest.fixture(scope="session")
def contradicting(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LanceSplit]:
    """A validation split with swapped labels: the better the training, the worse the result."""
    root = write_image_folder(tmp_path_factory.mktemp("root"), {s: {"cat": 8, "dog": 8} for s in ("train", "val")})
    val = Path(root, "val")
    os.rename(val / "cat", val / "swap")
    os.rename(val / "dog", val / "cat")
    os.rename(val / "swap", val / "dog")
    uris = ingest_folder(root, tmp_path_factory.mktemp("lance"))
    return {split: LanceSplit(uri) for split, uri in uris.items()}
