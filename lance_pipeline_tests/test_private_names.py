"""The table of private names in the documentation is complete, and every name in it exists and has its test."""

import importlib
import re
from pathlib import Path

import pytest

from lance_pipeline_tests.conftest import PROJECT
from lance_pipeline_tests.private_names import is_private, private_names

# Documented methods of named tuples, and a name that only type checkers know.
PUBLIC = {"…._asdict", "…._fields", "_typeshed.WriteableBuffer"}
ROW = re.compile(r"\| `([^`]+)` \| ([^|]+) \| `([^`:]+)(?:::(\w+))?` \|")
TABLE = [
    match.groups()
    for match in map(ROW.fullmatch, (PROJECT / "docs/private-names.md").read_text().splitlines())
    if match
]
# Where attributes are defined.
OWNERS = {
    "ConfigurableResource": "dagster",
    "ResourceDefinition": "dagster",
    "AbstractStore": "mlflow.store.tracking.sqlalchemy_store:SqlAlchemyStore",
    "RunData": "mlflow.entities",
    "SystemMetricsMonitor": "mlflow.system_metrics.system_metrics_monitor",
    "torch": "torch:",
    "LanceDataset": "lance",
}


def _short(name: str) -> str:
    """A name as the scan gives it: attributes without their owner."""
    return f"….{name.rpartition('.')[2]}" if name.startswith("….") else name


def test_the_table_names_what_the_code_uses():
    found = private_names(PROJECT / "lance_pipeline")
    listed = {_short(name) for name, *_ in TABLE}
    # Overridden, and therefore defined by this package too.
    expected = found.keys() - PUBLIC | {"…._config_schema"}
    assert expected - listed == set(), {name: found[name] for name in expected - listed}
    assert listed - expected == set(), "docs/private-names.md lists what is no longer used"


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, *_ in TABLE])
def test_every_name_exists(name: str):
    if name.startswith("…."):
        owner, attribute = name.removeprefix("….").split(".")
        module, _, other = OWNERS[owner].partition(":")
        place = importlib.import_module(module)
        if owner != module:
            place = getattr(place, other or owner)
        # Attributes of instances are named where they are set.
        source = Path(importlib.import_module(place.__module__).__file__ or "") if owner != module else None
        assert hasattr(place, attribute) or (source is not None and f"self.{attribute}" in source.read_text())
        return
    module, _, last = name.rpartition(".")
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        assert hasattr(importlib.import_module(module), last)


@pytest.mark.parametrize(("name", "file", "test"), [(name, file, test) for name, _, file, test in TABLE])
def test_every_name_has_its_test(name: str, file: str, test: str | None):
    source = (PROJECT / "lance_pipeline_tests" / file).read_text()
    assert test is None or f"def {test}(" in source, name


@pytest.mark.parametrize("name", [name for name, *_ in TABLE if not name.startswith("…")])
def test_no_name_has_a_public_export(name: str):
    package, last = name.partition(".")[0], name.rpartition(".")[2]
    public = importlib.import_module(package)
    assert is_private(last) or not hasattr(public, last), f"import {last} from {package}"
