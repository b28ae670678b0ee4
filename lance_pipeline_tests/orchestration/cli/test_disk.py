"""``python -m lance_pipeline disk``, with output for people and for programs."""

import json
import os
from pathlib import Path
from typing import Any

from lance_pipeline_tests.conftest import Shell, new_shell

SIZE = 1 << 20


def uses(shell: Shell, *arguments: str) -> dict[tuple[str, str], dict[str, Any]]:
    finished = shell.run("lance_pipeline", "disk", "--json", *arguments)
    assert finished.returncode == 0, finished.stderr
    return {(use["dataset"], use["what"]): use for use in json.loads(finished.stdout)}


def test_a_folder_that_is_partly_missing(shell: Shell):
    model, artifact = (
        shell.data / place / "model.safetensors" for place in ("models/digits/1", "mlflow/artifacts/digits/2")
    )
    for path in (model, artifact):
        path.parent.mkdir(parents=True)
    model.write_bytes(os.urandom(SIZE))
    os.link(model, artifact)
    (shell.data / "cache").mkdir()
    (shell.data / "cache" / "pixels.u8").write_bytes(os.urandom(SIZE))
    found = uses(shell)
    assert SIZE <= found["digits", "models"]["bytes"] < 1.1 * SIZE
    assert found["digits", "MLflow's artifacts"]["bytes"] < 0.1 * SIZE
    assert found["all datasets", "decoded images"]["may_go"] >= SIZE
    assert str(shell.data / "cache") in found["all datasets", "decoded images"]["how"]
    table = shell.run("lance_pipeline", "disk", "digits").stdout
    assert "models" in table
    assert "checkpoints" not in table


def test_it_makes_nothing_and_names_what_it_does_not_know(tmp_path: Path):
    shell = new_shell(tmp_path / "elsewhere", tmp_path / "data")
    (shell.data / "dagster" / "dagster.yaml").unlink()
    finished = shell.run("lance_pipeline", "disk", "flowers")
    assert finished.returncode == 1
    assert "'flowers'" in finished.stderr
    assert "digits" in finished.stderr
    assert not list((shell.data / "dagster").iterdir())


def test_an_object_store_is_remote(tmp_path: Path):
    shell = new_shell(tmp_path / "elsewhere", tmp_path / "data", {"LANCE_PIPELINE_DATA": "s3://bucket/data"})
    use = uses(shell, "digits")["digits", "Lance tables"]
    assert use["bytes"] is None
    assert "remote" in use["how"]
    assert "digits/maintenance" in use["how"]
