"""``python -m benchmarks.gpu`` in a trial on the CPU, as a user runs it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.gpu.part import PARTS
from benchmarks.gpu.sizes import SOURCES, TINY
from benchmarks.gpu.wanted import targets
from lance_pipeline_tests.conftest import PROJECT


def run(out: Path, *options: str) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """The finished process, and its JSON."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--tiny", "--out", str(out), *options]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=550, check=False)
    return done, json.loads(out.read_text())


def test_all_parts_run(tmp_path: Path):
    done, found = run(tmp_path / "gpu.json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert {name: part["status"] for name, part in found["parts"].items()} == dict.fromkeys(("machine", *PARTS), "ran")
    figures = {name: part["figures"] for name, part in found["parts"].items()}

    # What was skipped has not passed.
    assert figures["tests"]["pytest"]["passed"] == 0
    assert figures["tests"]["pytest"]["skipped"] > 0
    assert "0 passed, 0 failed" in done.stdout
    assert figures["tests"]["repeated"]["equal"]

    assert "left_out" not in figures["step"]
    *cells, compiled = figures["step"]["cells"]
    assert [cell["batch"] for cell in cells] == [cell.batch for cell in TINY.cells]
    for cell in cells:
        assert {"bare eager, deterministic", "bare eager, free", "ours, deterministic"} <= set(cell["rates"])
        assert "CUDA" in cell["errors"]["bare graph, free"]
    assert any("compiled" in name for name in (*compiled["rates"], *compiled["errors"]))
    assert min(rate for cell in (*cells, compiled) for rates in cell["rates"].values() for rate in rates) > 0

    pipeline = figures["pipeline"]
    assert len(pipeline["run"]["epochs"]) == TINY.epochs
    assert min(facts["rate"] for facts in pipeline["loader"].values()) > 0
    assert all(list(rates) == list(map(str, TINY.threads)) for rates in pipeline["threads"].values())
    assert set(pipeline["feeding"]) == set(TINY.fed)
    for rates in pipeline["feeding"].values():
        assert set(rates) == set(SOURCES)
        assert min(rates.values()) > 0

    assert figures["digits"]["device"] == "cpu"
    assert figures["digits"]["reproduced"]["same"]
    assert 0 < figures["fashion"]["goal"] <= 1

    for part in PARTS:
        assert f"## {part}: ran" in done.stdout
    assert "extrapolated from 2 epochs" in done.stdout
    for target in found["targets"]:
        assert f"| {target['text']} | {target['measured']} |" in done.stdout
        assert (target["met"] is None) == (not target["measured"])


def test_what_fails_or_hangs_is_told_and_the_rest_runs(tmp_path: Path):
    out = tmp_path / "gpu.json"
    nowhere = str(tmp_path / "nowhere")
    options = ("--only", "fashion", "step", "tests", "digits", "--limit", "tests=2", "--limit", "digits=0")
    done, found = run(out, *options, "--fashion", nowhere)
    assert done.returncode == 1
    parts = found["parts"]
    assert {name: part["status"] for name, part in parts.items()} == {
        "machine": "ran",
        "tests": "timed out",
        "step": "ran",
        "digits": "left out",
        "fashion": "failed",
    }
    assert nowhere in parts["fashion"]["errors"]["fashion"]
    assert nowhere in "\n".join(parts["fashion"]["output"])
    for text in ("## tests: timed out", "## step: ran", "## digits: left out", "## fashion: failed", nowhere):
        assert text in done.stdout
    assert "| not measured |" in done.stdout


def test_nothing_measured_is_no_target_met():
    assert {target.met for target in targets({})} == {None}
