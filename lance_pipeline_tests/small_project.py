"""A separate Dagster project that uses this package as a library, with a tiny dataset."""

import json
import os
import shutil
from pathlib import Path

from lance_pipeline_tests.image_folders import write_image_folder

CLASSES: tuple[str, ...] = ("dog rose", "Gänseblümchen", "tulip")
IMAGES = {"train": 4, "val": 2, "test": 2}
LEAK = {"train": "tulip/000.png", "test": "tulip/001.png"}
"""The only image with equal pixels in two splits: its file in each of them."""

_FILES = {
    "pyproject.toml": """\
[project]
name = "small"
version = "0.1.0"
requires-python = ">=3.11"
dependencies = ["lance-pipeline"]

[tool.dg]
directory_type = "project"

[tool.dg.project]
root_module = "small"
code_location_name = "small"
registry_modules = []
""",
    "workspace.yaml": """\
load_from:
  - python_module:
      module_name: lance_pipeline.definitions
      location_name: lance_pipeline.definitions
  - python_module:
      module_name: small.definitions
      working_directory: {root}
      location_name: small
""",
    "small/__init__.py": "",
    "small/definitions.py": '''\
"""The code location of the small project."""

from pathlib import Path

import dagster as dg


@dg.definitions
def defs() -> dg.Definitions:
    return dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
''',
    "small/defs/__init__.py": "",
    "small/defs/resources.py": '''\
"""The library's resources, unchanged."""

import dagster as dg

from lance_pipeline.orchestration.automation import build_maintenance_job
from lance_pipeline.orchestration.runtime.executor import default_executor
from lance_pipeline.orchestration.resources import default_resources


@dg.definitions
def resources() -> dg.Definitions:
    shared = dg.Definitions(resources=default_resources(), executor=default_executor())
    return dg.Definitions.merge(shared, build_maintenance_job())
''',
    "small/defs/flowers/defs.yaml": """\
type: lance_pipeline.ImageClassifier
attributes:
  description: Flowers that consist only of colours.
  source: {folder: images/flowers}
  image_size: 32
  recipe: {epochs: 2, batch_size: 8, weights: none}
  retrain: {cron: "30 4 * * *", timezone: Europe/Berlin}
""",
}


def write_small_project(root: Path) -> Path:
    """Write the project and its images below ``root``; returns its ``workspace.yaml``.

    The workspace serves two code locations: this package's own, and ``small`` with the one
    dataset ``flowers``.
    """
    for name, text in _FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        # As JSON, to quote any path; absolute, because servers resolve paths relative to their working folder.
        path.write_text(text.replace("{root}", json.dumps(os.path.abspath(root))), encoding="utf-8")
    counts = {split: dict.fromkeys(CLASSES, number) for split, number in IMAGES.items()}
    images = root / "images" / "flowers"
    write_image_folder(images, counts)
    shutil.copyfile(images / "train" / LEAK["train"], images / "test" / LEAK["test"])
    return root / "workspace.yaml"
