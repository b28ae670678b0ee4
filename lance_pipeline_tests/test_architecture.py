"""docs/architecture.md is true: its picture, its table and its example."""

import ast
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa
import pytest

from lance_pipeline.orchestration.plugins import load_plugins
from supply.architecture import described, draw, drawn, floors
from supply.lock import ROOT

if TYPE_CHECKING:
    from lance_pipeline.evaluation.prediction import Predictions
    from lance_pipeline.quality.split_checks import CheckTarget

PAGE = (ROOT / "docs" / "architecture.md").read_text()
DECISIONS = [path.read_text() for path in sorted((ROOT / "docs" / "decisions").glob("*.md"))]
PACKAGE = ROOT / "lance_pipeline"
# Sizes may drift so far before the picture has to be drawn again.
_DRIFT = 0.25


def sizes(rooms: list[dict[str, Any]]) -> list[int]:
    return [size for room in rooms for size in (room["modules"], room["lines"], *sizes(room["rooms"]))]


def without_sizes(rooms: list[dict[str, Any]]) -> list[dict[str, Any]]:
    kept = ("name", "about", "imports")
    return [{key: room[key] for key in kept} | {"rooms": without_sizes(room["rooms"])} for room in rooms]


def test_the_picture_is_what_the_code_gives():
    picture, code = drawn(), described(floors())
    assert [*map(without_sizes, picture)] == [*map(without_sizes, code)], "`make architecture` draws it again"
    for before, now in zip(picture, code, strict=True):
        assert sizes(before) == pytest.approx(sizes(now), rel=_DRIFT, abs=10), "`make architecture` draws it again"


def test_a_picture_is_the_same_each_time(tmp_path: Path):
    rooms = floors()
    for name in ("one", "two"):
        draw(rooms, tmp_path / f"{name}.svg")
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    assert drawn(tmp_path / "one.svg") == described(rooms)


def test_no_room_imports_from_its_own_floor_or_above():
    below: set[str] = set()
    for floor in floors():
        for room in floor:
            assert set(room.imports) <= below
        below |= {room.name for room in floor}
    assert {"storage", "loader", "training", "orchestration"} <= below


def rows() -> list[list[str]]:
    table = PAGE.partition("\n## To add X")[2].partition("\n## ")[0]
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[1:]]


def place(path: str) -> Path:
    """A path of the table, which is below the package or below the project."""
    return next((root / path for root in (PACKAGE, ROOT) if (root / path).exists()), PACKAGE / path)


def names(source: str) -> set[str]:
    """What a module defines, members of classes as ``Class.member``."""
    found: set[str] = set()

    def visit(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.add(prefix + node.name)
                if isinstance(node, ast.ClassDef):
                    visit(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                found.update(prefix + target.id for target in targets if isinstance(target, ast.Name))

    visit(ast.parse(source).body, "")
    return found


def test_the_table_names_at_least_twelve_things():
    assert len(rows()) >= 12
    assert {len(row) for row in rows()} == {3}


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_files_and_names_of_the_table_exist(row: list[str]):
    _, change, _ = row
    for part in change.split(";"):
        path, *wanted = re.findall(r"`([^`]+)`", part)
        assert place(path).is_file(), path
        assert set(wanted) <= names(place(path).read_text()), path


def paths() -> list[str]:
    """The paths of code that the pages name."""
    found = {path for text in (PAGE, *DECISIONS) for path in re.findall(r"`([a-z_]+/[\w./]*)`", text)}
    return sorted(path for path in found if not path.startswith(("data/", "mlflow/", "lance_pipeline/defs/flowers/")))


@pytest.mark.parametrize("path", paths())
def test_every_path_of_the_pages_exists(path: str):
    assert place(path).exists()


def test_the_example_adds_a_check_and_a_metric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "shown_in_architecture.py").write_text(example)
    monkeypatch.syspath_prepend(tmp_path)
    plugins = load_plugins(["shown_in_architecture"])
    sys.modules.pop("shown_in_architecture")
    (check,) = plugins.checks
    assert check.name == "square"
    for heights, wrong in (([8, 8], 0), ([8, 9], 1)):
        index = pa.table({"split": ["train"] * 2, "row": [0, 1], "width": [8, 8], "height": heights})
        finding = check.find(cast("CheckTarget", SimpleNamespace(index=index)))
        assert (finding.passed, finding.numbers["images"]) == (not wrong, wrong)
    predictions = SimpleNamespace(probabilities=np.array([[0.75, 0.25], [0.5, 0.5]]))
    assert plugins.metrics["confidence"](cast("Predictions", predictions), ["a", "b"]) == 0.625
