"""The examples in docstrings run as written."""

import doctest
import importlib
from pathlib import Path

import pytest

import lance_pipeline
from lance_pipeline.images import ingest_split
from lance_pipeline.sources.sample import make_sample

PACKAGE = Path(lance_pipeline.__file__).parent
MODULES = sorted(
    str(path.relative_to(PACKAGE.parent).with_suffix("")).replace("/", ".")
    for path in PACKAGE.rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like a checkout after the demo: raw images and the train split of digits are below ``data``."""
    folder = tmp_path_factory.mktemp("checkout")
    make_sample("digits", str(folder / "data/raw/digits"))
    ingest_split(str(folder / "data/raw/digits"), "train", str(folder / "data/lance/digits_train.lance"))
    return folder


def test_there_are_examples():
    assert len(MODULES) >= 5


@pytest.mark.parametrize("module", MODULES)
def test_examples(module: str, data: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(data)
    found = doctest.testmod(importlib.import_module(module), optionflags=doctest.ELLIPSIS)
    assert found.attempted
    assert not found.failed
