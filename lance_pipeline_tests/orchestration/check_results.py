"""What the checks of the splits have found, as their pages show it."""

import base64
import io
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
from PIL import Image

from lance_pipeline.display import percent
from lance_pipeline.quality.split_checks import SPLIT_CHECKS
from lance_pipeline_tests.orchestration.conftest import Graph

SPLITS = ("train", "val", "test")
DATA = ("raw_images", "lance_train", "lance_val", "lance_test")


def latest_check(graph: Graph, asset: str, check: str) -> dg.AssetCheckEvaluation | None:
    """The latest evaluation of a check on the asset's page, if it ever ran."""
    key = dg.AssetCheckKey(dg.AssetKey(["tiny", asset]), check)
    record = graph.instance.event_log_storage.get_latest_asset_check_execution_by_key([key]).get(key)
    if record is None or record.event is None or record.event.dagster_event is None:
        return None
    return record.event.dagster_event.asset_check_evaluation_data


def check_of(graph: Graph, split: str, check: str) -> dg.AssetCheckEvaluation:
    evaluation = latest_check(graph, f"lance_{split}", check)
    assert evaluation is not None, f"{check} of {split} never ran"
    return evaluation


def failed_checks(graph: Graph) -> set[tuple[str, str]]:
    """The failed checks by split and name, after asserting that all checks ran."""
    names = [(split, check.name) for split in SPLITS for check in SPLIT_CHECKS]
    return {(split, name) for split, name in names if not check_of(graph, split, name).passed}


def numbers_of(evaluation: dg.AssetCheckEvaluation) -> dict[str, Any]:
    return {name: value.value for name, value in evaluation.metadata.items() if name not in ("full_list", "examples")}


def full_list(graph: Graph, split: str, check: str) -> pd.DataFrame:
    """The list that the page of a check links to."""
    path = check_of(graph, split, check).metadata["full_list"].value
    assert isinstance(path, str)
    assert Path(path).name == f"{split}_{check}.csv"
    return pd.read_csv(path, dtype={"label": str}, keep_default_na=False)


def images_of(table: pd.DataFrame) -> list[str]:
    """The faulty images, as ``<split>/<label>/<file>``."""
    assert table["label"].tolist() == [path.split("/")[0] for path in table["path"]]
    return [f"{split}/{path}" for split, path in zip(table["split"], table["path"], strict=True)]


def pairs_of(table: pd.DataFrame) -> list[tuple[str, str]]:
    """The faulty images, each with the other one of its pair."""
    assert table["other_label"].tolist() == [path.split("/")[0] for path in table["other_path"]]
    others = [f"{split}/{path}" for split, path in zip(table["other_split"], table["other_path"], strict=True)]
    return list(zip(images_of(table), others, strict=True))


def assert_images(graph: Graph, split: str, check: str, count: int, total: int) -> None:
    """The check warns about this number of images and shows some of them on its page."""
    evaluation = check_of(graph, split, check)
    assert not evaluation.passed
    assert evaluation.severity == dg.AssetCheckSeverity.WARN
    numbers = numbers_of(evaluation)
    assert numbers["images"] == count
    assert numbers["share"] == percent(count / total)
    assert len(full_list(graph, split, check)) == count
    text = evaluation.metadata["examples"].value
    assert isinstance(text, str)
    begin = "![picture](data:image/jpeg;base64,"
    assert text.startswith(begin)
    with Image.open(io.BytesIO(base64.b64decode(text.removeprefix(begin).removesuffix(")")))) as sheet:
        assert min(sheet.size) > 100


def runs_of(graph: Graph) -> dict[str, str | None]:
    """The run of each asset's latest materialization."""
    events = {name: graph.instance.get_latest_materialization_event(dg.AssetKey(["tiny", name])) for name in DATA}
    return {name: event.run_id if event else None for name, event in events.items()}
