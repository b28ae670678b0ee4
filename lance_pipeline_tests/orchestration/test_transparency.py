"""The effect of transparent pixels, from the YAML to the metrics."""

from pathlib import Path

import dagster as dg
import numpy as np
import pytest
from PIL import Image

from lance_pipeline.images import LanceSplit
from lance_pipeline.orchestration.records import Model
from lance_pipeline.training.weights import CARD_FILE, load_model
from lance_pipeline_tests.orchestration.check_results import check_of, full_list, images_of
from lance_pipeline_tests.orchestration.conftest import Graph

DATA = ("raw_images", "lance_train", "lance_val", "lance_test")


def write_drawings(folder: Path) -> None:
    """Write black shapes on a transparent background: on black they would vanish."""
    rng = np.random.default_rng(0)
    for path in folder.rglob("*.png"):
        alpha = np.zeros((12, 12), np.uint8)
        row, column = rng.integers(0, 6, 2)
        alpha[row : row + 6, column : column + 6] = 255 if path.parent.name == "cat" else rng.integers(60, 200)
        image = Image.new("RGBA", (12, 12), (0, 0, 0, 0))
        image.putalpha(Image.fromarray(alpha))
        image.save(path)


@pytest.fixture
def drawings(graph: Graph) -> Graph:
    write_drawings(graph.images)
    return graph


def test_shapes_on_a_transparent_ground_are_seen_from_ingest_to_metrics(drawings: Graph):
    assert drawings.materialize().success
    assert not check_of(drawings, "train", "label_conflicts").metadata["images"].value
    assert check_of(drawings, "train", "plain_images").passed
    model = drawings.record("resnet34", Model)
    assert load_model(Path(model.folder))[1].transparency == "white"
    assert '"transparency":"white"' in Path(model.folder, CARD_FILE).read_text().replace(" ", "")
    assert LanceSplit(model.train.uri, model.train.version).transparency == "white"


def test_images_of_a_single_colour_are_warned_of(drawings: Graph):
    drawings.attributes["transparency"] = "black"
    assert drawings.materialize(*DATA).success
    assert not check_of(drawings, "train", "plain_images").passed
    assert len(images_of(full_list(drawings, "train", "plain_images"))) == 13
    assert not check_of(drawings, "train", "label_conflicts").passed


def test_another_choice_makes_stale_what_it_changes(drawings: Graph):
    """All images here are transparent; with none, the choice would affect only the Lance datasets."""
    versions = []
    for transparency in ("white", "white", "grey"):
        drawings.attributes["transparency"] = transparency
        assert drawings.materialize(*DATA).success
        event = drawings.instance.get_latest_materialization_event(dg.AssetKey(["tiny", "lance_train"]))
        assert event is not None
        assert event.asset_materialization is not None
        versions.append((event.asset_materialization.tags or {})["dagster/data_version"])
    assert versions[0] == versions[1] != versions[2]


def test_training_on_data_that_was_ingested_otherwise_says_so(drawings: Graph):
    drawings.attributes["transparency"] = "grey"
    assert drawings.materialize(*DATA).success
    drawings.attributes["transparency"] = "white"
    result = drawings.materialize("resnet34")
    assert result.success
    assert any("transparency: grey" in log.user_message for log in drawings.instance.all_logs(result.run_id))
    assert load_model(Path(drawings.record("resnet34", Model).folder))[1].transparency == "grey"
