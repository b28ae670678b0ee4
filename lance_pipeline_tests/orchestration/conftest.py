"""A tiny dataset and its graph, run in process."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import dagster as dg
import pytest

from lance_pipeline import ImageClassifier
from lance_pipeline.orchestration.attributes import ImageClassifierAttributes
from lance_pipeline.orchestration.record_io import RecordIOManager
from lance_pipeline.orchestration.records import Record
from lance_pipeline.orchestration.resources import default_resources
from lance_pipeline_tests.image_folders import write_image_folder

AnyRecord = TypeVar("AnyRecord", bound=Record)
COUNTS = {"train": {"cat": 7, "dog": 6}, "val": {"cat": 3, "dog": 3}, "test": {"cat": 3, "dog": 2}}
RECIPE = {"epochs": 2, "batch_size": 4, "weights": "none", "flip": False, "crop_padding": 0}


@dataclass
class Graph:
    """The graph of a dataset named ``tiny`` and its instance."""

    instance: dg.DagsterInstance
    images: Path
    attributes: dict[str, Any] = field(default_factory=dict)

    @property
    def parsed(self) -> ImageClassifierAttributes:
        attributes = {"name": "tiny", "source": {"folder": str(self.images)}, "image_size": 32, "recipe": RECIPE}
        return ImageClassifierAttributes.model_validate(attributes | self.attributes)

    @property
    def definitions(self) -> dg.Definitions:
        component = ImageClassifier(self.parsed)
        defs = component.build_defs(dg.ComponentTree.for_test().load_context)
        return dg.Definitions.merge(defs, dg.Definitions(resources=default_resources()))

    @property
    def assets(self) -> list[dg.AssetsDefinition]:
        return [asset for asset in self.definitions.assets or [] if isinstance(asset, dg.AssetsDefinition)]

    def materialize(self, *assets: str, **resources: Any) -> dg.ExecuteInProcessResult:
        """Materialize the named assets, or all; a failure is in the result and not raised."""
        return dg.materialize(
            [*self.assets, *(self.definitions.asset_checks or [])],
            selection=dg.AssetSelection.assets(*(["tiny", asset] for asset in assets)) if assets else None,
            instance=self.instance,
            resources=default_resources() | resources,
            raise_on_error=False,
        )

    def record(self, asset: str, record_type: type[AnyRecord]) -> AnyRecord:
        """The asset's latest record."""
        return RecordIOManager().read(self.instance, dg.AssetKey(["tiny", asset]), record_type)

    def store(self, asset: str, record: Record) -> None:
        """Report a materialization of the asset with this record, as a run would."""
        document, key = json.loads(record.to_json()), dg.AssetKey(["tiny", asset])
        # Remove the record of the last materialization that no run made.
        (RecordIOManager().asset_folder(key) / ".json").unlink(missing_ok=True)
        self.instance.report_runless_asset_event(
            dg.AssetMaterialization(key, metadata={"record": dg.MetadataValue.json(document)})
        )

    def data_versions(self) -> dict[str, str]:
        """The data version of each asset's latest materialization, by the last part of its key."""
        versions = {}
        for key in (key for asset in self.assets for key in asset.keys):
            event = self.instance.get_latest_materialization_event(key)
            assert event is not None
            tags = event.asset_materialization.tags if event.asset_materialization else None
            versions[key.path[-1]] = (tags or {})["dagster/data_version"]
        return versions

    def metadata(self, asset: str) -> dict[str, Any]:
        """The metadata of the asset's latest materialization."""
        event = self.instance.get_latest_materialization_event(dg.AssetKey(["tiny", asset]))
        assert event is not None
        assert event.asset_materialization is not None
        return {name: value.value for name, value in event.asset_materialization.metadata.items()}


def failure_of(result: dg.ExecuteInProcessResult) -> str:
    """The message of the first failed step."""
    assert not result.success
    failed = next(event for event in result.all_events if event.is_step_failure)
    data = failed.step_failure_data
    assert data.user_failure_data is not None, data.error
    return data.user_failure_data.description or ""


def _graph(folder: Path) -> Iterator[Graph]:
    with pytest.MonkeyPatch.context() as patch, dg.DagsterInstance.ephemeral() as instance:
        patch.setenv("LANCE_PIPELINE_DATA", str(folder / "data"))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        images = folder / "images"
        write_image_folder(images, COUNTS)
        yield Graph(instance, images)


@pytest.fixture
def graph(tmp_path: Path) -> Iterator[Graph]:
    """A graph with nothing materialized."""
    yield from _graph(tmp_path)


@pytest.fixture(scope="module")
def finished_graph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Graph]:
    """A fully materialized graph, for the tests of a module to inspect."""
    for graph in _graph(tmp_path_factory.mktemp("finished")):
        result = graph.materialize()
        assert result.success
        yield graph
