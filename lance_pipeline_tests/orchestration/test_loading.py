"""Cost and result of loading the code location."""

import json
import subprocess
import sys

import pytest

from lance_pipeline_tests.conftest import PLAIN_PACKAGES, PROJECT, Shell

# The last three take as long as loading our own code.
HEAVY = ["torch", "torchvision", "mlflow", "lance", "ray", "sqlalchemy", "alembic", "requests"]


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_code_location_loads_without_the_heavy_libraries():
    code = (
        "import sys, json, lance_pipeline.definitions as d; location = d.defs();"
        f"print(json.dumps([name for name in {HEAVY} if name in sys.modules]))"
    )
    assert json.loads(python(code)) == []


@pytest.mark.parametrize("package", PLAIN_PACKAGES)
def test_plain_packages_need_neither_dagster_nor_mlflow(package: str):
    code = (
        "import sys, importlib, pkgutil;"
        f"package = importlib.import_module('lance_pipeline.{package}');"
        "[importlib.import_module(f'{package.__name__}.{one.name}') for one in pkgutil.iter_modules(package.__path__)];"
        "print([name for name in ('dagster', 'mlflow') if name in sys.modules])"
    )
    assert python(code).strip() == "[]"


def test_component_is_listed_for_dg():
    listed = subprocess.run(
        [sys.executable, "-m", "dagster_dg_cli.cli", "list", "components", "--json", "-p", "lance_pipeline"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "lance_pipeline.ImageClassifier" in listed.stdout, listed.stdout + listed.stderr


def test_broken_yaml_ends_the_command_with_file_and_key(shell: Shell):
    project = shell.folder / "broken"
    (project / "defs" / "flowers").mkdir(parents=True)
    (project / "__init__.py").touch()
    (project / "defs" / "__init__.py").touch()
    (project / "definitions.py").write_text(
        "from pathlib import Path\nimport dagster as dg\n\n@dg.definitions\ndef defs():\n"
        "    return dg.load_from_defs_folder(path_within_project=Path(__file__).parent)\n"
    )
    (shell.folder / "pyproject.toml").write_text(
        '[tool.dg]\ndirectory_type = "project"\n[tool.dg.project]\nroot_module = "broken"\n'
    )
    (project / "defs" / "flowers" / "defs.yaml").write_text(
        "type: lance_pipeline.ImageClassifier\nattributes:\n  source: {folder: x}\n  recipe: {epochs: three}\n"
    )
    finished = shell.run("dagster", "asset", "materialize", "-m", "broken.definitions", "--select", "*")
    assert finished.returncode != 0
    assert "attributes.recipe.epochs" in finished.stderr
    assert "flowers/defs.yaml:4" in finished.stderr
