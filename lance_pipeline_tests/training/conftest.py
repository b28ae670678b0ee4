"""Two small splits that tests only read."""

import pytest

from lance_pipeline.images import LanceSplit
from lance_pipeline_tests.image_folders import ingest_folder, write_image_folder

COUNTS = {"train": {"cat": 8, "dog": 8}, "val": {"cat": 4, "dog": 4}}


@pytest.fixture(scope="session")
def splits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LanceSplit]:
    root = write_image_folder(tmp_path_factory.mktemp("folder"), COUNTS)
    uris = ingest_folder(root, tmp_path_factory.mktemp("lance"))
    return {split: LanceSplit(uri) for split, uri in uris.items()}
