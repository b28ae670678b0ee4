"""Tidying up a dataset's Lance tables, apart from its graph."""

from collections.abc import Iterator
from datetime import timedelta

import dagster as dg

from lance_pipeline.display import printable
from lance_pipeline.orchestration.dataset import SPLITS, Dataset
from lance_pipeline.orchestration.failures import clear_failures
from lance_pipeline.orchestration.lance_store import LanceStore
from lance_pipeline.orchestration.metadata import shown, table
from lance_pipeline.orchestration.supervision import interruptible


def build_maintenance(dataset: Dataset) -> dg.AssetsDefinition:
    """The asset ``<dataset>/maintenance``, in a group of its own, so that no run of the graph includes it."""
    keep = timedelta(days=dataset.attributes.maintenance.keep_days)
    spec = dataset.spec(
        "maintenance",
        "Compacts the dataset's Lance tables and removes old versions of them. Versions that a model was trained on, "
        "and those that the latest materializations name, stay.",
        {"lance"},
        "1",
        deps=[dataset.key(f"lance_{split}") for split in SPLITS],
    ).replace_attributes(group_name=f"{dataset.name}_maintenance")

    @dg.multi_asset(name=f"{dataset.name}__maintenance", specs=[spec])
    def maintenance(context: dg.AssetExecutionContext, lance_store: LanceStore):
        from lance_pipeline.images.maintenance import tidy

        tidied = []
        with clear_failures(), interruptible(context):
            for uri, seen_uri in _tables(dataset, lance_store):
                one = tidy(uri, keep, seen_uri)
                line = (
                    f"{uri}: {one.versions_before} versions are now {one.versions}, {one.data_files_before} data files "
                    f"are now {one.data_files}, {one.bytes_removed} bytes removed{one.note and f'; {one.note}'}"
                )
                context.log.info(printable(line))
                tidied.append(one)
        return dg.MaterializeResult(
            metadata=shown(
                {
                    "tables": table([one._asdict() for one in tidied]),
                    "bytes_removed": sum(one.bytes_removed for one in tidied),
                }
            )
        )

    return maintenance


def _tables(dataset: Dataset, store: LanceStore) -> Iterator[tuple[str, str | None]]:
    """The tables that exist, each with the folder that remembers what was seen, if an ingest writes it."""
    from lance_pipeline.images.table import find_table

    name, drawn = dataset.name, dataset.attributes.splits.fractions is not None
    seen = {f"{name}_{split}": f"{name}_seen" if drawn else f"{name}_{split}_seen" for split in SPLITS}
    others = [f"{name}_listing"] + [
        f"{name}_{split}_{kind}" for split in SPLITS for kind in ("rejected", "predictions")
    ]
    for table_name in [*seen, *others]:
        uri = store.dataset_uri(table_name)
        if find_table(uri) is not None:
            yield uri, store.folder_uri(seen[table_name]) if table_name in seen else None
