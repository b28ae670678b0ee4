"""The splits as Lance datasets: three assets that one step makes."""

from typing import Any

import dagster as dg

from lance_pipeline.orchestration.dataset import SPLITS, Dataset
from lance_pipeline.orchestration.failures import clear_failures
from lance_pipeline.orchestration.lance_store import LanceStore
from lance_pipeline.orchestration.metadata import column_schema, picture
from lance_pipeline.orchestration.progress import Throttle
from lance_pipeline.orchestration.records import LanceVersion, RawImages, Split

CODE_VERSION = "1"
_CHECK = "counts_reconcile"
_CHECK_DESCRIPTION = "Rows and rejected files add up to the listed ones; where they do not, the asset itself fails."


def build_lance_splits(dataset: Dataset) -> dg.AssetsDefinition:
    """The assets ``<dataset>/lance_train``, ``lance_val`` and ``lance_test``; any of them can be made alone."""
    specs = {
        split: dataset.spec(
            f"lance_{split}",
            f"The {split} split as a Lance dataset: the image files' bytes unchanged, with name, label and split.",
            {"lance", "arrow"},
            CODE_VERSION,
        )
        for split in SPLITS
    }
    checks = [
        dg.AssetCheckSpec(
            _CHECK,
            asset=spec.key,
            blocking=True,
            description=_CHECK_DESCRIPTION,
        )
        for spec in specs.values()
    ]

    @dg.multi_asset(
        name=f"{dataset.name}__lance_splits",
        ins={"raw_images": dg.AssetIn(dataset.key("raw_images"))},
        outs={f"lance_{split}": dg.AssetOut.from_spec(spec, is_required=False) for split, spec in specs.items()},
        check_specs=checks,
        can_subset=True,
    )
    def lance_splits(context: dg.AssetExecutionContext, raw_images: RawImages, lance_store: LanceStore):
        for split, spec in specs.items():
            if spec.key in context.selected_asset_keys:
                with clear_failures():
                    uri = lance_store.dataset_uri(f"{dataset.name}_{split}")
                    yield _ingested(context, raw_images, split, uri, spec.key)

    return lance_splits


def _ingested(
    context: dg.AssetExecutionContext, raw: RawImages, split: str, uri: str, key: dg.AssetKey
) -> dg.MaterializeResult[Split]:
    from lance_pipeline.images import ingest_split
    from lance_pipeline.images.listing import files_of_split

    files = files_of_split(raw.listing.uri, raw.listing.version, split)
    throttle = Throttle()

    def on_progress(done: int, total: int) -> None:
        if throttle.ready():
            context.log.info(f"{split}: {done} of {total} images")

    report = ingest_split(
        raw.root, split, uri, folder=raw.folders[split], files=files, classes=raw.classes, on_progress=on_progress
    )
    listed = files.num_rows
    if report.rows + report.rejected != listed:
        raise dg.Failure(
            f"{split}: {listed} files were listed, but {report.rows} rows and {report.rejected} rejected files came of "
            "them. Materialize raw_images again; if it stays so, this is a defect of lance_pipeline."
        )
    context.log.info(f"{split}: version {report.version}, {report.added} rows added, {report.removed} removed")
    record = Split(
        data=LanceVersion(uri=uri, version=report.version, fingerprint=report.fingerprint),
        rows=report.rows,
        rejected=report.rejected,
        counts=report.counts,
        channels=report.channels,
    )
    reconciled = dg.AssetCheckResult(
        asset_key=key,
        check_name=_CHECK,
        passed=True,
        metadata={"listed": listed, "rows": report.rows, "rejected": report.rejected},
    )
    return dg.MaterializeResult(
        asset_key=key,
        value=record,
        data_version=dg.DataVersion(report.fingerprint),
        metadata=_metadata(record, split) | {"added": report.added, "removed": report.removed},
        check_results=[reconciled],
    )


def _metadata(record: Split, split: str) -> dict[str, Any]:
    from lance_pipeline.images import LanceSplit
    from lance_pipeline.images.pictures import class_counts_picture, contact_sheet

    data = LanceSplit(record.data.uri, record.data.version)
    return {
        "dagster/uri": record.data.uri,
        "dagster/row_count": record.rows,
        "dagster/column_schema": column_schema(data.dataset.schema),
        "dagster/storage_kind": "lance",
        "bytes": data.size_in_bytes(),
        "lance_version": record.data.version,
        "rejected": record.rejected,
        "classes": picture(class_counts_picture(record.counts, f"{split}: images per class")),
        "samples": picture(contact_sheet(data)),
        "read_it": dg.MetadataValue.md(
            f'`lance.dataset("{record.data.uri}", version={record.data.version}).to_table()`'
        ),
    }
