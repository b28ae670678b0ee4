"""An ingested split that tests only read."""

import pytest

from lance_pipeline_tests.image_folders import ingest_folder, write_image_folder

COUNTS = {"cat": 9, "dog": 8, "fox": 6}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_image_folder(tmp_path_factory.mktemp("folder"), {"train": COUNTS})


@pytest.fixture(scope="session")
def uri(folder: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    return ingest_folder(folder, tmp_path_factory.mktemp("lance"))["train"]


@pytest.fixture
def below_a_file(tmp_path):
    """A path that nobody, not even root, can write to."""
    (tmp_path / "file").write_text("")
    return str(tmp_path / "file" / "below")
