"""docs/configuration.md covers all settings."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from supply.configuration import INTERNAL, PAGE, VARIABLES, page
from supply.lock import ROOT

_KNOWN_OWNERS = re.compile("_?(LANCE_PIPELINE|MLFLOW|DAGSTER|AWS|XDG|CUDA|OMP)_[A-Z0-9_]*[A-Z0-9]|PYTHON[A-Z]+")
_READERS = {"get", "setdefault", "pop", "getenv", "EnvVar"}


def test_the_page_is_what_the_models_give():
    assert PAGE.read_text() == page(), "`make docs` writes it again"


def variables(source: str, constants: dict[str, str]) -> Iterator[str]:
    """The environment variables that a module names, given the string constants by name."""
    for node in ast.walk(ast.parse(source)):
        named: ast.expr | None = None
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and _KNOWN_OWNERS.fullmatch(node.value):
            named = node
        elif isinstance(node, ast.Call) and node.args and ast.unparse(node.func).rpartition(".")[2] in _READERS:
            of_environment = "environ" in ast.unparse(node.func) or ast.unparse(node.func).endswith(
                ("getenv", "EnvVar")
            )
            named = node.args[0] if of_environment else None
        elif isinstance(node, ast.Subscript) and ast.unparse(node.value).endswith("environ"):
            named = node.slice
        elif isinstance(node, ast.Compare) and ast.unparse(node.comparators[0]).endswith("environ"):
            named = node.left
        if isinstance(named, ast.Constant) and isinstance(named.value, str):
            yield named.value
        elif isinstance(named, ast.Name | ast.Attribute):
            # Skip names that are computed at run time: their values are constants elsewhere.
            name = constants.get(ast.unparse(named).rpartition(".")[2])
            if name:
                yield name


def constants_of(sources: list[str]) -> dict[str, str]:
    found = {}
    for source in sources:
        for node in ast.parse(source).body:
            if (
                isinstance(node, ast.Assign)
                and isinstance(node.value, ast.Constant)
                and isinstance(node.value.value, str)
            ):
                found |= {ast.unparse(target): node.value.value for target in node.targets}
    return found


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ('os.environ.get("A")', "A"),
        ('environ["A"]', "A"),
        ('os.getenv("A", "")', "A"),
        ('dg.EnvVar("A")', "A"),
        ('"A" in os.environ', "A"),
        ("os.environ.setdefault(X, 1)", "A"),
        ('x = {"LANCE_PIPELINE_A": 1}', "LANCE_PIPELINE_A"),
    ],
)
def test_a_variable_is_found_however_it_is_read(source: str, name: str):
    assert [*variables(source, {"X": "A"})] == [name]


def test_every_environment_variable_is_on_the_page():
    sources = [path.read_text() for path in sorted((ROOT / "lance_pipeline").rglob("*.py"))]
    constants = constants_of(sources)
    read = {name for source in sources for name in variables(source, constants)}
    assert len(read) > 20
    assert read <= VARIABLES.keys() | INTERNAL.keys()
    text = PAGE.read_text()
    assert not [name for name in read if f"| `{name}` |" not in text]


def test_no_variable_on_the_page_is_unknown_to_the_project():
    files = [*(ROOT / "lance_pipeline").rglob("*.py"), ROOT / "Makefile", ROOT / "dagster.yaml"]
    text = "\n".join(Path(file).read_text() for file in files)
    assert not [name for name in (*VARIABLES, *INTERNAL) if not re.search(rf"\b{name}\b", text)]
