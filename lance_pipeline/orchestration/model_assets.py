"""Finding the models among a dataset's assets: those named after a network."""

import dagster as dg

from lance_pipeline.training.networks import NETWORKS


def model_assets(instance: dg.DagsterInstance, dataset: str) -> list[str]:
    """The networks that a dataset has models of, the latest model first; the configured network may be missing.

    Args:
        instance: the Dagster instance.
        dataset: the name of the dataset.
    """
    made: dict[str, float] = {}
    for name in {key.path[-1] for key in instance.get_asset_keys(prefix=[dataset])} & NETWORKS.keys():
        event = instance.get_latest_materialization_event(dg.AssetKey([dataset, name]))
        if event is not None:
            made[name] = event.timestamp
    return sorted(made, key=lambda name: (-made[name], name))
