"""A check and a metric that a project adds in its own module."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lance_pipeline.errors import InputError
from lance_pipeline.orchestration.plugins import _TAKEN, load_plugins
from lance_pipeline.orchestration.tracking.mlflow_tracking import MlflowTracking
from lance_pipeline_tests.orchestration.check_results import check_of
from lance_pipeline_tests.orchestration.conftest import Graph

OWN = """\
import numpy as np, pyarrow.compute as pc
from lance_pipeline.quality.split_checks import SplitCheck, images_at_fault

def not_square(examined):
    return images_at_fault([examined.index.filter(pc.field("width") != pc.field("height"))], examined)

def confidence(predictions, classes):
    return np.mean(predictions.probabilities.max(axis=1))

CHECKS = [SplitCheck("square", "Every image is square.", not_square)]
METRICS = {"confidence": confidence}
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of a new module with the test parameter as its source."""
    name = f"own_{tmp_path.name}"
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / f"{name}.py").write_text(request.param)
    monkeypatch.syspath_prepend(tmp_path / "modules")
    yield name
    sys.modules.pop(name, None)


@pytest.mark.parametrize("module", [OWN], indirect=True)
def test_ten_lines_add_a_check_and_a_metric(graph: Graph, module: str):
    graph.attributes["plugins"] = [module]
    result = graph.materialize()
    assert result.success
    # Whatever the asset's page shows has a name that no metric can take.
    assert {name for name in graph.metadata("metrics_val") if "/" not in name} - {"confidence"} <= _TAKEN
    for split in ("train", "val", "test"):
        assert check_of(graph, split, "square").passed
    figure = graph.metadata("metrics_val")["confidence"]
    assert 0.5 <= figure <= 1
    client = MlflowTracking().client()
    logged = client.get_logged_model(graph.metadata("resnet34")["mlflow_model"].removeprefix("models:/"))
    assert figure in [one.value for one in logged.metrics or [] if one.key == "confidence"]


@pytest.mark.parametrize(
    ("module", "named"),
    [
        ("", "CHECKS"),
        ("import nothing_of_that_name", "nothing_of_that_name"),
        ("CHECKS = [1]", "CHECKS"),
        ("METRICS = {'accuracy': max}", "accuracy"),
        ("METRICS = {'F 1': max}", "F 1"),
        ("METRICS = {'f': 1}", "METRICS"),
        (OWN.replace('"square"', '"leakage"'), "leakage"),
        (OWN + "CHECKS *= 2", "square"),
    ],
    indirect=["module"],
)
def test_what_is_wrong_with_a_module_is_named(module: str, named: str):
    with pytest.raises(InputError) as error:
        load_plugins([module])
    assert f"[{module}]" in str(error.value)
    assert named in str(error.value)


def test_a_module_that_is_not_there_is_named():
    with pytest.raises(InputError, match="no_such_module"):
        load_plugins(["no_such_module"])
