"""The HTML pages of materializations: their content, and that names cannot inject markup."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lance_pipeline.display import percent
from lance_pipeline.orchestration.attributes import Keep
from lance_pipeline.orchestration.pages.page import _environment
from lance_pipeline.orchestration.records import Metrics, Model, RawImages, Split
from lance_pipeline.orchestration.resources import default_resources
from lance_pipeline.orchestration.retention.retain import Retention
from lance_pipeline_tests.image_folders import class_image
from lance_pipeline_tests.orchestration.conftest import COUNTS, Graph
from lance_pipeline_tests.orchestration.test_hostile_names import CLASSES, CONTROLS, finished

__all__ = ["finished"]
ASSETS = ("raw_images", "lance_train", "lance_val", "lance_test", "resnet34", "metrics_val", "metrics_test")
_ELEMENTS = "a b body br div figcaption figure h1 h2 h3 head html img meta p span style table td th title tr"
_ATTRIBUTES = "alt charset class content height href lang name src width"


class Read(HTMLParser):
    """A page as parsed by a browser."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.text, self.pictures, self.links = "", 0, []
        self.feed(document)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in _ELEMENTS.split()
        assert {name for name, _ in attrs} <= set(_ATTRIBUTES.split())
        about = dict(attrs)
        if tag == "img":
            assert re.fullmatch("data:image/(png|jpeg);base64,[A-Za-z0-9+/=]+", about["src"] or "")
            self.pictures += 1
        if tag == "a":
            assert re.match("(https?://|/)[^/]", about["href"] or ""), about
            self.links.append(about["href"])

    def handle_data(self, data: str) -> None:
        self.text += data


def page_of(graph: Graph, asset: str) -> Read:
    address = graph.metadata(asset)["page"]
    event = graph.instance.get_latest_materialization_event(dg.AssetKey(["tiny", asset]))
    assert event is not None
    # Without host and port, the link works wherever the UI runs.
    assert address == f"/reports/tiny/{asset}/{event.run_id}.html"
    return Read((graph.images.parent / "data" / address[1:]).read_text())


@pytest.mark.parametrize("asset", ASSETS)
def test_each_asset_leads_to_its_page(finished_graph: Graph, asset: str):
    page = page_of(finished_graph, asset)
    assert f"tiny/{asset}" in page.text
    assert page.pictures or asset == "raw_images"
    assert f"/assets/tiny/{asset}" in page.links


def test_page_of_the_raw_images_has_counts_and_unusual_files(graph: Graph):
    cats = graph.images / "train" / "cat"
    (cats / "a large one.BMP").write_bytes(b"x" * 123_456)
    (cats / "deep.d").mkdir()
    for name in ("empty.png", "deep.d/empty", ".hidden.png", "notes.txt", "Übersicht.CSV"):
        (cats / name).touch()
    (cats / "notes.txt").write_text("no image")
    graph.attributes["splits"] = {"train": "train", "val": "val", "test": "test"}
    assert graph.materialize("raw_images").success
    page, record = page_of(graph, "raw_images"), graph.record("raw_images", RawImages)
    assert "29 files in 2 classes" in page.text
    # The counts of cat in train, val and test, their share, and the size.
    assert re.search(r"cat\s*12\s*3\s*3\s*62.1 %\s*12\d kB", page.text)
    for files, what, first in [
        (3, "empty", "train/cat/deep.d/empty"),
        (3, "not named as an image", "train/cat/deep.d/empty"),
        (1, "ignored: hidden, or outside of class folders", "cat/.hidden.png"),
    ]:
        assert re.search(rf"{files}\s+{what}[^:]*:\s*{first}", page.text), page.text
    assert re.search(r"png\s*25\d", page.text)
    assert re.search(r"\(none\)\s*1", page.text)
    assert re.search(r"Largest files\s*file\s*size\s*train/cat/a large one.BMP\s*123 kB", page.text)
    assert re.search(r"Smallest files\s*file\s*size\s*train/cat/deep.d/empty\s*0 B", page.text)
    assert record.listing.fingerprint in page.text
    assert "/assets/tiny/lance_train" in page.links


def test_page_of_a_split_has_counts_and_samples_and_checks(finished_graph: Graph):
    page, record = page_of(finished_graph, "lance_train"), finished_graph.record("lance_train", Split)
    assert f"{record.rows} images in 2 classes" in page.text
    assert page.pictures >= 1 + sum(COUNTS["train"].values())
    assert "few images" in page.text
    assert record.data.fingerprint in page.text


def test_page_of_a_model_has_what_it_was_trained_with(finished_graph: Graph):
    page, record = page_of(finished_graph, "resnet34"), finished_graph.record("resnet34", Model)
    assert percent(record.val_accuracy) in page.text
    assert record.sha256 in page.text
    assert "learning rate" in page.text
    assert finished_graph.metadata("resnet34")["mlflow_run"] in page.links


def test_page_of_metrics_shows_each_mistake(finished_graph: Graph):
    page, record = page_of(finished_graph, "metrics_test"), finished_graph.record("metrics_test", Metrics)
    assert percent(record.accuracy) in page.text
    images = sum(COUNTS["test"].values())
    model = finished_graph.record("resnet34", Model)
    assert f"/reports/tiny/resnet34/{Path(model.folder).name}.html" in page.links
    # One picture for each mistake, plus the confusion matrix.
    assert page.pictures == 1 + round((1 - record.accuracy) * images)


def test_figures_are_for_people_and_series_have_something_to_show(finished_graph: Graph):
    for asset in ASSETS:
        metadata = finished_graph.metadata(asset)
        numbers = {name for name, value in metadata.items() if isinstance(value, int | float)}
        assert not [name for name in numbers if "version" in name or name in ("bytes", "images")], asset
    assert isinstance(finished_graph.metadata("resnet34")["val_accuracy"], float)
    assert isinstance(finished_graph.metadata("metrics_test")["accuracy"], float)
    assert " %" in finished_graph.metadata("metrics_test")["result"]


def test_rejected_files_are_named(graph: Graph):
    graph.attributes["ingest"] = {"max_rejected_fraction": 0.5}
    (graph.images / "train" / "cat" / "notes.png").write_text("no image")
    class_image(0, np.random.default_rng(0)).save(graph.images / "train" / "cat" / "good.png")
    assert graph.materialize("raw_images", "lance_train").success
    page = page_of(graph, "lance_train")
    assert "1 of 15 files were rejected (6.7 %)" in page.text
    assert "cat/notes.png" in page.text
    assert "not_an_image" in page.text


def test_pages_go_with_their_runs(graph: Graph):
    runs = [graph.materialize("raw_images", "lance_train").run_id for _ in range(3)]
    folder = graph.images.parent / "data" / "reports" / "tiny" / "lance_train"
    assert {path.stem for path in folder.iterdir()} == set(runs)
    places = [default_resources()[name] for name in ("mlflow", "lance_store", "io_manager")]
    outcome = Retention("tiny", Keep(models=1, days=0), graph.instance, *places).apply(lambda line: None)
    assert not outcome.troubles
    assert {path.stem for path in folder.iterdir()} == {runs[-1]}


def test_pages_obey_no_name(finished: Any):
    reports: Path = finished.shell.data / "reports" / "flowers"
    pages = [Read(path.read_text()) for path in reports.glob("*/*.html")]
    assert len(pages) == len(ASSETS)
    text = "".join(page.text for page in pages)
    assert not CONTROLS.search(text)
    assert CLASSES[2] in text
    assert CLASSES[3] in text
    assert "\\u{1b}[31mred" in text


@given(st.text(max_size=30))
def test_any_text_is_text(text: str):
    page = _environment().from_string('<p class="{{ text }}">{{ text }}</p><a href="{{ text | href }}">x</a>')

    class One(Read):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            assert tag in ("p", "a")
            assert len(attrs) == 1
            if tag == "a":
                assert re.match("#|https?://|/(?![/\\\\])", attrs[0][1] or "")

    found = One(page.render(text=text))
    assert found.text.endswith("x")


@pytest.mark.parametrize(
    "address", ["javascript:alert(1)", "//evil.example", "/\\evil.example", "data:text/html,x", ""]
)
def test_no_link_leads_to_a_script_or_elsewhere_in_disguise(address: str):
    assert _environment().from_string("{{ text | href }}").render(text=address) == "#"
