"""Results of a dataset's latest materializations, for the terminal."""

from pathlib import Path

import dagster as dg

from lance_pipeline.display import printable
from lance_pipeline.errors import InputError
from lance_pipeline.orchestration.cli.code_location import asset_specs
from lance_pipeline.orchestration.commands import DEFINITIONS, LIST_COMMAND
from lance_pipeline.orchestration.dataset import SPLITS
from lance_pipeline.orchestration.model_assets import model_assets
from lance_pipeline.orchestration.nearest import did_you_mean
from lance_pipeline.orchestration.record_io import RecordIOManager
from lance_pipeline.orchestration.records import Metrics, Model, Split
from lance_pipeline.orchestration.resources import default_resources
from lance_pipeline.orchestration.runtime.databases import require_sound_databases
from lance_pipeline.orchestration.runtime.instance import prepare_instance
from lance_pipeline.orchestration.ui.address import address_of, to_open
from lance_pipeline.training.networks import DEFAULT_NETWORK, NETWORKS


def print_summary(dataset: str, module: str = DEFINITIONS) -> None:
    """Print accuracy, row counts, and the locations of all results.

    Args:
        dataset: name of the dataset.
        module: module of the definitions, as Dagster's ``-m`` takes it.

    Raises:
        InputError: an asset of the dataset was never materialized, or a database or record is damaged.
    """
    prepare_instance()
    require_sound_databases()
    resources = default_resources()
    records: RecordIOManager = resources["io_manager"]
    with dg.DagsterInstance.get() as instance:
        _require_known(instance, dataset)
        splits = {split: records.read(instance, dg.AssetKey([dataset, f"lance_{split}"]), Split) for split in SPLITS}
        model = records.read(instance, dg.AssetKey([dataset, _network(instance, dataset, module)]), Model)
        metrics = {
            split: records.read(instance, dg.AssetKey([dataset, f"metrics_{split}"]), Metrics) for split in SPLITS[1:]
        }
        pages = [_page(instance, dg.AssetKey([dataset, f"metrics_{split}"])) for split in metrics]
    run = resources["mlflow"].existing_run(model.mlflow_run_id)
    lines = {
        "accuracy": "   ".join(_accuracy(split, one, model) for split, one in metrics.items()),
        "rows": "   ".join(f"{split} {one.rows}" for split, one in splits.items()),
        "Lance": "   ".join(f"{_short(one.data.uri)} (version {one.data.version})" for one in splits.values()),
        "model": f"{_short(model.folder)}/model.safetensors   {model.network}",
        "predictions": "   ".join(_short(one.predictions.uri) for one in metrics.values()),
        "mistakes": "   ".join(map(address_of, filter(None, pages))),
        "MLflow run": f"{run.run_id}   {to_open(run.url)}",
        "see it": "make ui   (then the address it prints; Ctrl-C stops it)",
        "again": f"dagster asset materialize -m lance_pipeline.definitions --select 'group:{dataset}'",
    }
    print(f"\n{printable(dataset)}")
    for name, value in lines.items():
        print(printable(f"  {name:<12} {value}"))


def _network(instance: dg.DagsterInstance, dataset: str, module: str) -> str:
    """The network in the dataset's settings if it has a model, else that of the latest model."""
    made = model_assets(instance, dataset)
    if len(made) == 1:
        return made[0]
    # Load the definitions only when needed, as it takes seconds.
    keys = {spec.key for spec in asset_specs(module)}
    current = next((name for name in NETWORKS if dg.AssetKey([dataset, name]) in keys), DEFAULT_NETWORK)
    return current if current in made or not made else made[0]


def _accuracy(split: str, metrics: Metrics, model: Model) -> str:
    outdated = "" if metrics.model_sha256 == model.sha256 else f" (of an earlier model; materialize metrics_{split})"
    return f"{split} {metrics.accuracy:.2%}{outdated}"


def _page(instance: dg.DagsterInstance, key: dg.AssetKey) -> str:
    """Link to the page of the latest metrics, with the most confident mistakes; "" if there is none."""
    event = instance.get_latest_materialization_event(key)
    page = event.asset_materialization.metadata.get("page") if event and event.asset_materialization else None
    return str(page.value) if page is not None else ""


def _require_known(instance: dg.DagsterInstance, dataset: str) -> None:
    known = sorted({key.path[0] for key in instance.get_asset_keys()})
    if dataset not in known:
        raise InputError(
            f"no asset of a dataset {dataset!r} was ever materialized; there are {', '.join(known) or 'none'}."
            f"{did_you_mean(dataset, known)} `{LIST_COMMAND}` lists what can be materialized."
        )


def _short(path: str) -> str:
    """The path relative to the current folder, if it is inside."""
    return str(Path(path).relative_to(Path.cwd())) if Path(path).is_relative_to(Path.cwd()) else path
