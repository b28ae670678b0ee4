"""The modules that are loaded when the steps of a run begin."""

from pathlib import Path

import dagster as dg

from lance_pipeline.orchestration.runtime.executor import _PRELOADED, PRELOAD_TAG
from lance_pipeline_tests.conftest import new_shell
from lance_pipeline_tests.orchestration.conftest import Graph

# These start threads on import or use, and threads do not survive a fork.
UNSAFE = {"lance", "ray"}
# Imports only the executor, and so shows what the fork server has imported.
PROBE = """
import sys

import dagster as dg
from lance_pipeline.orchestration.runtime.executor import PRELOAD_TAG, default_executor

@dg.asset(op_tags={PRELOAD_TAG: "NAMES"})
def probe():
    return dg.MaterializeResult(metadata={"modules": sorted(sys.modules)})

defs = dg.Definitions([probe], executor=default_executor())
"""


def test_steps_find_what_they_need_loaded_and_nothing_that_a_fork_breaks(graph: Graph, tmp_path: Path):
    tags = [asset.op.tags.get(PRELOAD_TAG, "") for asset in graph.assets]
    names = {name for tag in tags for name in tag.split(",") if name}
    assert {"torch", "mlflow.pytorch"} < names

    shell = new_shell(tmp_path / "project", tmp_path / "shells")
    (shell.folder / "probing.py").write_text(PROBE.replace("NAMES", ",".join(sorted(names))))
    finished = shell.run("dagster", "asset", "materialize", "-m", "probing", "--select", "probe")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    with shell.instance() as instance:
        event = instance.get_latest_materialization_event(dg.AssetKey("probe"))
    assert event is not None
    assert event.asset_materialization is not None
    found = event.asset_materialization.metadata["modules"].value
    assert isinstance(found, list)
    modules = {str(name) for name in found}
    assert {*_PRELOADED, *names} - modules == set()
    assert UNSAFE & modules == set()
