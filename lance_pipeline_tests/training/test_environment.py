"""The recorded environment of a training."""

import importlib.metadata
import json
import sys

import torch

from lance_pipeline.training.device import choose_device
from lance_pipeline.training.environment import environment


def test_it_names_what_is_imported(tmp_path, monkeypatch):
    # An aborted installation, and a second copy of a package that is never imported.
    (tmp_path / "broken-1.0.dist-info").mkdir()
    (tmp_path / "other_torch-9.9.dist-info").mkdir()
    (tmp_path / "other_torch-9.9.dist-info" / "METADATA").write_text("Name: torch\nVersion: 9.9\n")
    monkeypatch.setattr("sys.path", [*sys.path, str(tmp_path)])
    found = environment(choose_device("cpu"))
    assert found["packages"]["torch"] == importlib.metadata.version("torch")
    assert found["threads"] == torch.get_num_threads()
    assert json.loads(json.dumps(found)) == found
