"""Runs the tests that need a GPU, and a short training twice."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from benchmarks.gpu.part import Figures, Job, printed_by
from benchmarks.measure import REPO

_TESTS = Path(REPO, "lance_pipeline_tests")
_MARK = "mark.cuda"


class FailedTestsError(RuntimeError):
    """Tests failed, or no tests ran."""


def measure(job: Job, figures: Figures) -> None:
    """The numbers of passed, failed and skipped tests; whether two trainings with one seed are bitwise equal."""
    with figures.attempt("pytest -m cuda"):
        figures.put("pytest", counts := _tested(job))
        if counts["failed"] or not counts["passed"] + counts["skipped"]:
            raise FailedTestsError(f"{counts['failed']} failed, {counts['passed']} passed: {counts['failures']}")
    with figures.attempt("repeated training"):
        sizes = job.sizes
        command = [sys.executable, "-m", "benchmarks.gpu.repeat", job.device]
        command += [str(sizes.repeated), str(sizes.repeated_batch)]
        weights = [printed_by(command) for _ in range(2)]
        figures.put("repeated", {"steps": sizes.repeated, "sha256": weights, "equal": weights[0] == weights[1]})


def _tested(job: Job) -> dict[str, Any]:
    """The number of tests by outcome, and the names of those that failed."""
    report = os.path.join(job.work, "pytest.xml")
    # Other files need packages that a machine with a GPU may lack.
    files = sorted(str(path) for path in _TESTS.rglob("test_*.py") if _MARK in path.read_text())
    if job.tiny:
        files = [path for path in files if path.endswith("test_cuda.py")]
    command = [sys.executable, "-m", "pytest", "-m", "cuda", "-p", "no:cacheprovider", f"--junitxml={report}", *files]
    subprocess.run(command, cwd=REPO, check=False)  # noqa: S603
    cases = list(ET.parse(report).iter("testcase"))  # noqa: S314
    outcomes = [{child.tag for child in case} & {"failure", "error", "skipped"} for case in cases]
    failures = [
        f"{case.get('classname')}.{case.get('name')}"
        for case, outcome in zip(cases, outcomes, strict=True)
        if outcome & {"failure", "error"}
    ]
    return {
        "passed": outcomes.count(set()),
        "failed": len(failures),
        "skipped": outcomes.count({"skipped"}),
        "failures": failures,
    }
