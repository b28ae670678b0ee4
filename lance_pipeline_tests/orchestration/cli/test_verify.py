"""Damaged rows under Dagster: failing assets, the maintenance checks, and the command that repairs them."""

import shutil
from pathlib import Path

from lance_pipeline.images import LanceSplit
from lance_pipeline_tests.conftest import Shell
from lance_pipeline_tests.orchestration.conftest import Graph, failure_of

DATA = ("raw_images", "lance_train", "lance_val", "lance_test")


def flip_stored_images(uri: Path, count: int) -> list[str]:
    """Flip one bit in each of some images of a split, in place; returns their paths."""
    rows = LanceSplit(str(uri)).to_table(["path", "image"]).slice(0, count).to_pylist()
    (file,) = (uri / "data").iterdir()
    stored = bytearray(file.read_bytes())
    for row in rows:
        stored[stored.index(row["image"]) + len(row["image"]) // 2] ^= 0x10
    file.write_bytes(stored)
    return [row["path"] for row in rows]


def test_damaged_rows_are_named_and_repaired(shell: Shell):
    made = shell.materialize('key:"digits/raw_images" or key:"digits/lance_test"')
    assert made.returncode == 0, made.stderr
    uri = shell.data / "lance" / "digits_test.lance"
    before = LanceSplit(str(uri))
    paths = flip_stored_images(uri, 3)

    found = shell.run("lance_pipeline", "verify", "digits")
    assert found.returncode == 1
    assert all(path in found.stdout for path in paths)
    command = found.stdout.split("lance_pipeline ")[-1].split()
    assert command == ["verify", "digits", "--repair"]

    repaired = shell.run("lance_pipeline", *command)
    assert repaired.returncode == 0, repaired.stdout + repaired.stderr
    again = shell.run("lance_pipeline", "verify", "digits")
    assert (again.returncode, "270 rows, intact" in again.stdout) == (0, True)
    assert LanceSplit(str(uri)).facts["fingerprint"] == before.facts["fingerprint"]


def test_what_is_not_there_is_said(shell: Shell):
    for target in ("nothing", str(shell.data / "nothing.lance")):
        found = shell.run("lance_pipeline", "verify", target)
        assert found.returncode == 1
        assert target in found.stderr
        assert "Traceback" not in found.stderr


def test_nothing_is_built_on_damaged_rows(graph: Graph):
    assert graph.materialize(*DATA, "resnet34").success
    data = graph.images.parent / "data"
    # With cached pixels, the rows would not be read.
    shutil.rmtree(data / "cache")
    for split, asset in (("train", "resnet34"), ("test", "metrics_test")):
        (path,) = flip_stored_images(data / "lance" / f"tiny_{split}.lance", 1)
        assert path in failure_of(graph.materialize(asset))


def test_maintenance_checks_all_rows_and_leaves_damaged_ones(graph: Graph):
    assert graph.materialize(*DATA).success
    uri = graph.images.parent / "data" / "lance" / "tiny_val.lance"
    flip_stored_images(uri, 2)
    versions = len(LanceSplit(str(uri)).dataset.versions())
    result = graph.materialize("maintenance")
    assert result.success
    passed = {check.check_name: check.passed for check in result.get_asset_check_evaluations()}
    assert passed == {
        "train_rows_are_intact": True, "val_rows_are_intact": False, "test_rows_are_intact": True,
    }  # fmt: skip
    assert len(LanceSplit(str(uri)).dataset.versions()) == versions
