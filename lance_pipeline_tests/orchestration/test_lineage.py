"""The lineage that users inspect: specs and dependencies, in the code and through the web server."""

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from lance_pipeline.definitions import defs
from lance_pipeline.orchestration.dataset import SPLITS
from lance_pipeline.orchestration.model_checks import METRICS_CHECKS, MODEL_CHECKS
from lance_pipeline.quality.split_checks import SPLIT_CHECKS, CheckSettings
from lance_pipeline_tests.conftest import Demo

SNAPSHOT = Path(__file__).with_name("digits_lineage.json")


def described(spec: dg.AssetSpec, checks: list[str]) -> dict[str, Any]:
    return {
        "deps": sorted(dep.asset_key.to_user_string() for dep in spec.deps),
        "group": spec.group_name,
        "kinds": sorted(spec.kinds),
        "owners": list(spec.owners),
        "code_version": spec.code_version,
        "description": spec.description,
        "checks": checks,
    }


def test_specs_and_dependencies_are_as_recorded():
    """After an intended change: remove the file, run the test twice, and review the difference in git."""
    assets = [asset for asset in defs().assets or [] if isinstance(asset, dg.AssetsDefinition)]
    found = {}
    for asset in assets:
        for spec in (spec for spec in asset.specs if spec.group_name == "digits"):
            checks = sorted(check.name for check in asset.check_specs if check.asset_key == spec.key)
            deps = [dg.AssetDep(key) for key in asset.asset_deps[spec.key]]
            found[spec.key.to_user_string()] = described(spec.replace_attributes(deps=deps), checks)
    text = json.dumps(found, indent=2, sort_keys=True) + "\n"
    if not SNAPSHOT.exists():
        SNAPSHOT.write_text(text)
        pytest.fail(f"{SNAPSHOT.name} was missing and has been written; look at it and run again")
    assert json.loads(text) == json.loads(SNAPSHOT.read_text())


@pytest.fixture(scope="module")
def graphql(demo: Demo) -> Iterator[str]:
    """The address of a real web server over the demo's instance."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "dagster_webserver",
            "-m",
            "lance_pipeline.definitions",
            "-p",
            str(port),
        ],
        cwd=demo.shell.folder,
        env=demo.shell.environment,
    )
    try:
        deadline = time.monotonic() + 120
        while not _answers(f"http://127.0.0.1:{port}/server_info"):
            assert server.poll() is None, "the web server ended"
            assert time.monotonic() < deadline, "the web server did not come up"
            time.sleep(0.3)
        yield f"http://127.0.0.1:{port}/graphql"
    finally:
        server.terminate()
        server.wait(30)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False


def of_digits(nodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The demo's assets; those of other datasets have not been materialized."""
    return [node for node in nodes if node["assetKey"]["path"][0] == "digits"]


def query(url: str, text: str) -> dict[str, Any]:
    body = json.dumps({"query": text}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        answer = json.load(response)
    assert "errors" not in answer, answer
    return answer["data"]


def test_web_server_shows_the_lineage(graphql: str):
    data = query(graphql, "{ assetNodes { assetKey { path } dependencyKeys { path } } }")
    lineage = {
        node["assetKey"]["path"][-1]: {key["path"][-1] for key in node["dependencyKeys"]}
        for node in of_digits(data["assetNodes"])
    }
    assert lineage == {
        "raw_images": set(),
        "lance_train": {"raw_images"},
        "lance_val": {"raw_images"},
        "lance_test": {"raw_images"},
        "resnet34": {"lance_train", "lance_val"},
        "metrics_val": {"resnet34", "lance_val"},
        "metrics_test": {"resnet34", "lance_test"},
        "maintenance": {"lance_train", "lance_val", "lance_test"},
    }


def test_web_server_shows_every_asset_fresh_with_its_metadata(graphql: str):
    text = """{ assetNodes { assetKey { path } staleStatus
        assetMaterializations(limit: 1) { metadataEntries { label } }
        metadataEntries { label } } }"""
    nodes = {node["assetKey"]["path"][-1]: node for node in of_digits(query(graphql, text)["assetNodes"])}
    # Maintenance has not been requested yet, and is not part of the graph.
    assert nodes.pop("maintenance")["staleStatus"] == "MISSING"
    assert {name: node["staleStatus"] for name, node in nodes.items()} == dict.fromkeys(nodes, "FRESH")
    labels = {entry["label"] for entry in nodes["lance_train"]["assetMaterializations"][0]["metadataEntries"]}
    assert {"dagster/row_count", "dagster/column_schema", "lance_version", "size", "classes", "samples"} <= labels
    for node in nodes.values():
        assert "dagster/code_references" in {entry["label"] for entry in node["metadataEntries"]}


def test_checks_that_block_have_passed_and_the_others_have_run(graphql: str):
    text = """{ assetNodes { assetKey { path } assetChecksOrError { ... on AssetChecks { checks {
        name executionForLatestMaterialization { status } } } } } }"""
    checks = {
        (node["assetKey"]["path"][-1], check["name"]): check["executionForLatestMaterialization"]
        for node in of_digits(query(graphql, text)["assetNodes"])
        for check in node["assetChecksOrError"].get("checks", [])
    }
    # Maintenance has not run.
    assert {checks.pop(("maintenance", f"{split}_rows_are_intact")) for split in SPLITS} == {None}
    found = {name: execution["status"] for name, execution in checks.items()}
    asked = {(f"lance_{split}", check) for split in SPLITS for check in SPLIT_CHECKS}
    advised = {("resnet34", check) for check in MODEL_CHECKS}
    advised |= {(f"metrics_{split}", check) for split in SPLITS[1:] for check in METRICS_CHECKS}
    known = {("raw_images", "same_classes")} | {(asset, check.name) for asset, check in asked}
    assert found.keys() == known | advised
    blocking = {(asset, check.name) for asset, check in asked if check.blocks(CheckSettings())}
    assert {found[one] for one in blocking} == {found["raw_images", "same_classes"]} == {"SUCCEEDED"}
    assert set(found.values()) <= {"SUCCEEDED", "FAILED"}
