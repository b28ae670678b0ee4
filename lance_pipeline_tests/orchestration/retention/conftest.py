"""A tiny dataset on a Dagster instance with its history on disk, like a user's."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from lance_pipeline.orchestration.attributes import Keep
from lance_pipeline.orchestration.resources import default_resources
from lance_pipeline.orchestration.retention.retain import Retention
from lance_pipeline_tests.conftest import PROJECT
from lance_pipeline_tests.image_folders import write_image_folder
from lance_pipeline_tests.orchestration.conftest import COUNTS, RECIPE, Graph

DATA = ("raw_images", "lance_train", "lance_val", "lance_test")


class Project(Graph):
    """The dataset ``tiny`` and its data folder."""

    @property
    def data(self) -> Path:
        return self.images.parent / "data"

    def train(self, *more: str) -> str:
        """Train, and materialize more assets; returns the Dagster run."""
        result = self.materialize("resnet34", *more)
        assert result.success
        return result.run_id

    def retention(self, models: int = 1, days: float = 0, **other: Any) -> Retention:
        resources = default_resources() | other
        places = (resources[key] for key in ("mlflow", "lance_store", "io_manager"))
        return Retention("tiny", Keep(models=models, days=days), self.instance, *places)

    def models(self) -> set[str]:
        """The runs whose models are on disk."""
        return {path.name for path in (self.data / "models" / "tiny").glob("*/")}

    def records(self, asset: str = "resnet34") -> set[str]:
        """The runs that have a record of an asset."""
        return {path.stem for path in (self.data / "dagster" / "records" / "tiny" / asset).glob("*.json")}

    def pages(self) -> set[str]:
        """The runs whose models have a page."""
        return {path.stem for path in (self.data / "reports" / "tiny" / "resnet34").glob("*.html")}

    def events(self) -> set[str]:
        """The runs that have an event database."""
        found = {path.stem for path in (self.data / "dagster" / "history" / "runs").glob("*.db")}
        return found - {"index"}


@pytest.fixture(scope="module")
def module_patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, module_patch: pytest.MonkeyPatch) -> Iterator[Project]:
    """A project with splits but no model."""
    folder = tmp_path_factory.mktemp("project")
    module_patch.setenv("LANCE_PIPELINE_DATA", str(folder / "data"))
    module_patch.delenv("MLFLOW_TRACKING_URI", raising=False)
    home = folder / "data" / "dagster"
    home.mkdir(parents=True)
    module_patch.setenv("DAGSTER_HOME", str(home))
    shutil.copyfile(PROJECT / "dagster.yaml", home / "dagster.yaml")
    write_image_folder(folder / "images", COUNTS)
    with dg.DagsterInstance.get() as instance:
        project = Project(instance, folder / "images")
        project.attributes = {"image_size": 8, "recipe": RECIPE | {"epochs": 1}}
        assert project.materialize(*DATA).success
        yield project
