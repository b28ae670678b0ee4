"""Fixtures: an object store for a module, and a folder of its bucket for each test."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from lance_pipeline_tests.ingest.object_places import Place, place
from lance_pipeline_tests.object_store import ObjectStore, object_store

# The folders that the store's guest key can read.
GUEST_READS = ("shared/train/cat", "shared/train/dog/open")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """A running server, with the environment variables that a user sets for it."""
    folder = tmp_path_factory.mktemp("s3")
    with object_store(folder, guest_reads=GUEST_READS) as store, pytest.MonkeyPatch.context() as patch:
        store.use(patch)
        yield store


@pytest.fixture
def remote(store: ObjectStore, request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A folder of the bucket, for one test."""
    return place(store, "s3", re.sub(r"\W", "-", request.node.name), tmp_path)
