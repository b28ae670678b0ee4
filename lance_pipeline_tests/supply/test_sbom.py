"""The software bill of materials lists all installed packages, with their archives and licences."""

import json
import re
import subprocess
import sys

import pytest
from packaging.utils import canonicalize_name

from lance_pipeline_tests.supply import requirements
from supply.lock import DEVELOPMENT, ROOT, RUNTIME, pins

COPYLEFT = re.compile(r"\bA?GPL|\bGNU (Affero )?General Public", re.IGNORECASE)
# torch requires this package on Linux; the licence of the CUDA libraries is in its other packages.
WITHOUT_LICENCE = {"cuda-toolkit"}


def is_copyleft(licence: dict) -> bool:
    """Whether every alternative of a licence entry is the GPL or the AGPL."""
    text = json.dumps(licence)
    return all(COPYLEFT.search(alternative) for alternative in re.split(r"\bOR\b", text))


@pytest.fixture(scope="module")
def components(tmp_path_factory) -> dict[str, dict]:
    path = tmp_path_factory.mktemp("sbom") / "dist" / "sbom.cdx.json"
    command = [sys.executable, "-m", "supply.sbom", path]
    ended = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    text = path.read_text()
    bom = json.loads(text)
    assert (bom["bomFormat"], bom["specVersion"]) == ("CycloneDX", "1.6")
    assert bom["metadata"]["component"]["name"] == "lance-pipeline"
    assert "file:" not in text
    assert str(ROOT) not in text
    return {canonicalize_name(component["name"]): component for component in bom["components"]}


def test_all_that_runs_is_listed_with_the_hashes_that_pip_checks(components):
    locked = pins(RUNTIME)
    for name, version in requirements.closure(requirements.RUNTIME).items():
        component = components[name]
        assert (component["version"], component["scope"]) == (version, "required")
        (archives,) = component["externalReferences"]
        assert {entry["content"] for entry in archives["hashes"]} == set(locked[name].hashes)


def test_tools_of_development_are_marked_as_such(components):
    tools = requirements.closure(requirements.DEVELOPMENT).keys() & pins(DEVELOPMENT).keys()
    assert {components[name]["scope"] for name in tools} == {"excluded"}


def test_nothing_that_runs_is_under_the_gpl_or_agpl(components):
    runs = [component for component in components.values() if component.get("scope") == "required"]
    assert {component["name"] for component in runs if "licenses" not in component} <= WITHOUT_LICENCE
    assert {component["name"] for component in runs if any(map(is_copyleft, component.get("licenses", ())))} == set()


@pytest.mark.parametrize(
    ("licence", "copyleft"),
    [
        ({"license": {"id": "AGPL-3.0-only"}}, True),
        ({"license": {"name": "License :: OSI Approved :: GNU General Public License v3 (GPLv3)"}}, True),
        ({"expression": "MIT AND GPL-2.0-or-later"}, True),
        ({"expression": "MIT OR GPL-2.0-or-later"}, False),
        ({"license": {"id": "LGPL-2.1-only"}}, False),
    ],
)
def test_the_gpl_and_agpl_are_told_from_other_licences(licence, copyleft):
    assert is_copyleft(licence) == copyleft
