"""Names that look like log lines, escape codes, links, HTML or formulas, wherever they are shown."""

import csv
import io
import os
import re
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import lance
import pytest

from lance_pipeline.display import from_csv_cell, printable
from lance_pipeline.sources.file_names import unescape_name
from lance_pipeline_tests.conftest import Shell, new_shell
from lance_pipeline_tests.image_folders import write_image_folder
from lance_pipeline_tests.orchestration.conftest import Graph, failure_of
from lance_pipeline_tests.small_project import write_small_project

CLASSES = (
    "cat\n2026-01-01 00:00:00 +0000 - dagster - INFO - FORGED",
    "\x1b]0;OWNED\x07\x1b[31mred",
    "[x](javascript:alert(1))![](http:tracker)",
    "<img src=x onerror=alert(1)>`",
    "=cmd|' C calc'!A0",
    "Gänseblümchen 🌼 日本",
)
FILES = ("@SUM(1).png", "txt\u202egnp.png", "zero\u200bwidth.png", "ret\rurn.png", "+1;=2.png", "\x9b2J.png")
BAD = "no\nimage\x1b[2J <script>alert(1)<!script>"
ATTRIBUTES = """\
type: lance_pipeline.ImageClassifier
attributes:
  source: {folder: images/flowers}
  image_size: 32
  ingest: {max_rejected_fraction: 0.5}
  recipe: {epochs: 1, batch_size: 8, weights: none}
"""
# Tabs and line breaks are allowed: outside of names, the pipeline writes them itself.
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]")
PICTURE = re.compile(r"!\[picture\]\(data:image/(png|jpeg);base64,[A-Za-z0-9+/=]+\)")


def write_images(images: Path) -> None:
    """Write images with hostile names, some shared by two splits, and other files beside them."""
    write_image_folder(images, {split: dict.fromkeys(CLASSES, len(FILES)) for split in ("train", "val", "test")})
    for label in images.glob("*/*"):
        for number, name in enumerate(FILES):
            (label / f"{number:03d}.png").rename(label / name)
    for name in FILES:
        shutil.copyfile(images / "train" / CLASSES[0] / name, images / "test" / CLASSES[1] / name)
    (images / "train" / CLASSES[0] / BAD).write_text("no image")
    (images / "train" / f".{BAD}").write_text("hidden")


@dataclass(frozen=True)
class Finished:
    """A run of the whole graph, started from the shell."""

    shell: Shell
    told: str


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("hostile")
    write_small_project(folder)
    shutil.rmtree(folder / "images" / "flowers")
    write_images(folder / "images" / "flowers")
    (folder / "small/defs/flowers/defs.yaml").write_text(ATTRIBUTES)
    shell = new_shell(folder, folder / "data", {"PYTHONPATH": f"{folder}:{os.environ.get('PYTHONPATH', '')}"})
    run = shell.run("dagster", "asset", "materialize", "-m", "small.definitions", "--select", "group:flowers")
    assert run.returncode == 0, run.stderr
    summary = shell.run("lance_pipeline", "summary", "flowers")
    assert summary.returncode == 0, summary.stderr
    return Finished(shell, run.stdout + run.stderr + summary.stdout + summary.stderr)


def assert_harmless(text: str) -> None:
    assert not CONTROLS.search(text), text
    assert not [line for line in text.splitlines() if line.startswith(("2026-01-01 00:00:00", "image", "urn"))], text


def test_the_terminal_shows_no_name_as_it_is(finished):
    assert_harmless(finished.told)
    assert "Passed over 1 files" in finished.told


def metadata_of(finished: Finished) -> dict[str, Any]:
    """The metadata of all events, by event, name and, in a table, row and column."""
    found: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(finished.shell.data / "dagster"))
        with dg.DagsterInstance.get() as instance:
            (run,) = instance.get_runs()
            entries = instance.all_logs(run.run_id)
    for number, entry in enumerate(entries):
        assert_harmless(entry.user_message)
        event = entry.dagster_event
        data = event.event_specific_data if event else None
        about = getattr(data, "materialization", None) or getattr(data, "asset_observation", None) or data
        for name, value in (getattr(about, "metadata", None) or {}).items():
            found[f"{number} {getattr(about, 'check_name', '')} {name}"] = value
    return found


def texts(value: Any) -> Iterator[str]:
    if isinstance(value, dg.TableMetadataValue):
        for record in value.records:
            yield from (cell for cell in record.data.values() if isinstance(cell, str))
    elif isinstance(value.value, str):
        yield value.value


def test_pages_show_no_name_as_it_is(finished):
    metadata = metadata_of(finished)
    assert len(metadata) > 100
    shown = set()
    for value in metadata.values():
        for text in texts(value):
            shown.add(text)
            assert_harmless(text)
            if isinstance(value, dg.MarkdownMetadataValue):
                # Either a code span or a picture made by the pipeline.
                assert PICTURE.fullmatch(text) or re.fullmatch(r"`[^`]+`", text)
            else:
                assert "\n" not in text
        if isinstance(value, dg.UrlMetadataValue):
            assert re.match("http://127.0.0.1:|/(reports|assets|runs|mlflow)/", str(value.url))
    assert {printable(label) for label in CLASSES} <= shown


def test_lists_run_no_formula_and_give_names_back(finished):
    reports = finished.shell.data / "reports" / "flowers"
    names, labels = set(), set()
    for path in reports.glob("*.csv"):
        text = path.read_text()
        assert_harmless(text)
        for row in csv.DictReader(io.StringIO(text)):
            assert not [cell for cell in row.values() if cell.startswith(("=", "+", "-", "@"))]
            labels.add(from_csv_cell(row["label"]))
            if "path" in row:
                names.add(os.path.basename(unescape_name(from_csv_cell(row["path"]))).decode())
    assert set(CLASSES[:2]) <= labels <= set(CLASSES)
    assert names == set(FILES)


def test_lance_keeps_names_as_they_are(finished):
    table = lance.dataset(str(finished.shell.data / "lance" / "flowers_train.lance")).to_table(
        columns=["label", "filename"]
    )
    assert set(table["label"].to_pylist()) == set(CLASSES)
    assert set(table["filename"].to_pylist()) == set(FILES)


def test_a_failure_shows_no_name_as_it_is(graph: Graph):
    shutil.rmtree(graph.images)
    write_images(graph.images)
    graph.attributes["ingest"] = {"max_rejected_fraction": 0}
    run = graph.materialize("raw_images", "lance_train")
    message = failure_of(run)
    assert_harmless(message)
    assert f"    {printable(f'{CLASSES[0]}/{BAD}')}: " in message
    data = next(event for event in run.all_events if event.is_step_failure).step_failure_data.user_failure_data
    assert data is not None
    details = str(data.metadata["details"].value)
    assert details.startswith(printable(f"{CLASSES[0]}/{BAD}"))
    assert_harmless(details)
    shutil.rmtree(graph.images / "val" / CLASSES[1])
    message = failure_of(graph.materialize("raw_images"))
    assert "OWNED" in message
    assert_harmless(message)


def test_an_archive_of_such_names(graph: Graph, tmp_path: Path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        file.addfile(tarfile.TarInfo(f"../{CLASSES[0]}{CLASSES[1]}"))
    (tmp_path / "a.tar").write_bytes(buffer.getvalue())
    graph.attributes["source"] = {"archive": {"url": (tmp_path / "a.tar").as_uri()}}
    message = failure_of(graph.materialize("raw_images"))
    assert "OWNED" in message
    assert_harmless(message)
