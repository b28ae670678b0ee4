"""A commit and a push have to pass the same checks as `make` and `.ci/run`."""

import re
from typing import Any

import yaml
from packaging.specifiers import SpecifierSet

from lance_pipeline_tests.supply.requirements import PROJECT
from supply.lock import ROOT


def commands_of(target: str) -> list[str]:
    """The commands of a target of the Makefile."""
    (recipe,) = re.findall(rf"^{target}:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    return [line.strip().replace("$(BIN)", ".venv/bin") for line in recipe.splitlines()]


def test_a_commit_is_checked_as_make_lint_checks():
    (source,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert source["repo"] == "local"
    assert [hook["entry"] for hook in source["hooks"]] == commands_of("lint")
    assert {hook["language"] for hook in source["hooks"]} == {"system"}


def steps_of(job: str) -> tuple[dict[str, Any], list[str]]:
    found = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"][job]
    return found, [step["run"] for step in found["steps"] if "run" in step]


def test_every_supported_python_runs_what_must_pass():
    job, commands = steps_of("pinned")
    supported = SpecifierSet(PROJECT["project"]["requires-python"])
    versions = job["strategy"]["matrix"]["python"]
    assert versions == [f"3.{minor}" for minor in range(30) if f"3.{minor}" in supported]
    assert commands == [".ci/run"]
    named = [one.rpartition(" ")[2] for one in PROJECT["project"]["classifiers"] if ":: Python :: 3." in one]
    assert named == versions


def test_the_newest_dependencies_are_tried():
    _, commands = steps_of("newest")
    assert commands[0] == "make lock UPGRADE=--upgrade"
    assert commands[-1] == "make test lint"
