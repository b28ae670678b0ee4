"""Fixtures: a server with an archive, and where to unpack it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lance_pipeline_tests.sources.archive_server import Server, serving
from lance_pipeline_tests.sources.archives import PACKED


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(PACKED["tar.gz"]) as server:
        yield server


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "raw" / "cinic"
