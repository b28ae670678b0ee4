"""Which of a dataset's assets are models: those that are named after a network."""

import dagster as dg

from lance_pipeline.training.networks import NETWORKS


def model_assets(instance: dg.DagsterInstance, dataset: str) -> list[str]:
    """The networks that a dataset has models of, the latest one first; the one that it is set to may not be among them.

    Args:
        instance: Dagster's.
        dataset: its name.
    """
    made: dict[str, float] = {}
    for name in {key.path[-1] for key in instance.get_asset_keys(prefix=[dataset])} & NETWORKS.keys():
        event = instance.get_latest_materialization_event(dg.AssetKey([dataset, name]))
        if event is not None:
            made[name] = event.timestamp
    return sorted(made, key=lambda name: (-made[name], name))
