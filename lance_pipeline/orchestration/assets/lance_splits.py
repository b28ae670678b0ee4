"""The splits as Lance datasets: three assets made by one step."""

from collections.abc import Collection, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from lance_pipeline.display import markdown_code, printable, size
from lance_pipeline.errors import InputError
from lance_pipeline.orchestration.checks import answers, is_asked_alone
from lance_pipeline.orchestration.dataset import SPLITS, Dataset, settings_version
from lance_pipeline.orchestration.lance_store import LanceStore
from lance_pipeline.orchestration.metadata import column_schema, show_pictures, shown, table
from lance_pipeline.orchestration.pages.page import write_page
from lance_pipeline.orchestration.pages.split_page import split_page
from lance_pipeline.orchestration.record_io import RecordIOManager
from lance_pipeline.orchestration.records import LanceVersion, RawImages, Split, TableVersion
from lance_pipeline.orchestration.runtime.failures import clear_failures
from lance_pipeline.orchestration.runtime.progress import progress_reporter
from lance_pipeline.orchestration.runtime.supervision import interruptible
from lance_pipeline.orchestration.split_checks import (
    blocking_failures,
    check_result,
    check_specs,
    require_blocking,
)

if TYPE_CHECKING:
    from lance_pipeline.images import IngestReport, LanceSplit
    from lance_pipeline.ingest.ingestion import IngestSource
    from lance_pipeline.quality.check_outcomes import Outcome

CODE_VERSION = "2"


class SplitsConfig(dg.Config):
    """How one run brings the splits up to date."""

    repair: bool = Field(
        default=False,
        description="Read all stored rows too, and write those that are damaged again, from their image files.",
    )


def build_lance_splits(dataset: Dataset) -> dg.AssetsDefinition:
    """The assets ``<dataset>/lance_train``, ``lance_val`` and ``lance_test``; each can be materialized alone."""
    specs = {
        split: dataset.spec(
            f"lance_{split}",
            f"The {split} split as a Lance dataset: the image files' bytes unchanged, with name, label and split.",
            {"lance", "arrow"},
            settings_version(CODE_VERSION, dataset.attributes.transparency),
        )
        for split in SPLITS
    }

    @dg.multi_asset(
        name=f"{dataset.name}__lance_splits",
        # A dependency, not an input: checks alone need no images.
        deps=[dataset.key("raw_images")],
        outs={f"lance_{split}": dg.AssetOut.from_spec(spec, is_required=False) for split, spec in specs.items()},
        check_specs=[
            one for spec in specs.values() for one in check_specs(spec.key, dataset.checks, dataset.attributes.checks)
        ],
        op_tags=dataset.step_tags,
        can_subset=True,
    )
    def lance_splits(
        context: dg.AssetExecutionContext,
        config: SplitsConfig,
        lance_store: LanceStore,
        io_manager: dg.ResourceParam[RecordIOManager],
    ):
        wanted = [split for split, spec in specs.items() if spec.key in context.selected_asset_keys]
        reports: dict[str, IngestReport] = {}
        splits: dict[str, LanceSplit] = {}
        if wanted:
            with clear_failures(context), interruptible(context):
                key, run_id = dataset.key("raw_images"), context.run.run_id
                raw_images = io_manager.read(context.instance, key, RawImages, run_id)
                reports = _ingest(context, dataset, raw_images, wanted, lance_store, repair=config.repair)
                splits = _existing_splits(dataset, lance_store)
        failures: list[str] = []
        for split in wanted:
            key, record, report = specs[split].key, split_record(reports[split]), reports[split]
            with clear_failures(context), interruptible(context):
                found = _check_outcomes(dataset, split, record, splits, lance_store)
                results = [check_result(outcome, key) for outcome in found]
            yield from results
            failed = blocking_failures(found)
            failures += failed
            if not failed:
                with clear_failures(context), interruptible(context):
                    page = _page(context, lance_store, key, record, splits[split], report, found)
                    metadata = shown({"page": page} | _metadata(record, splits[split], report))
                version = _data_version(report)
                yield dg.MaterializeResult(asset_key=key, value=record, data_version=version, metadata=metadata)
        with clear_failures(context), interruptible(context):
            yield from _answers(context, dataset, lance_store, io_manager)
        with clear_failures(context):
            require_blocking(failures)

    return lance_splits


def _answers(
    context: dg.AssetExecutionContext, dataset: Dataset, store: LanceStore, records: RecordIOManager
) -> Iterator[dg.AssetCheckResult]:
    """The results of the selected checks of splits that this run does not materialize."""
    from lance_pipeline.images import LanceSplit

    keys = {split: dataset.key(f"lance_{split}") for split in SPLITS}
    asked = [split for split, key in keys.items() if is_asked_alone(context, key)]
    there = [split for split, key in keys.items() if asked and context.instance.get_latest_materialization_event(key)]
    versions = {split: records.read(context.instance, keys[split], Split).data for split in there}
    splits = {split: LanceSplit(**version.model_dump()) for split, version in versions.items()}

    def answer(split: str, record: Split, names: Collection[str]) -> Iterator[dg.AssetCheckResult]:
        for outcome in _check_outcomes(dataset, split, record, splits, store, names):
            yield check_result(outcome, keys[split])

    for split in asked:
        yield from answers(context, records, keys[split], Split, partial(answer, split))


def _check_outcomes(
    dataset: Dataset,
    split: str,
    record: Split,
    splits: "Mapping[str, LanceSplit]",
    store: LanceStore,
    names: Collection[str] | None = None,
) -> "list[Outcome]":
    """The outcomes of the checks with these names on one split; all checks when None."""
    from lance_pipeline.quality.check_outcomes import outcomes
    from lance_pipeline.quality.split_checks import CheckTarget, FileCounts

    quarantine, attributes = record.quarantine, dataset.attributes
    files = FileCounts(record.scanned, record.rows, record.rejected, quarantine.uri, quarantine.version)
    target = CheckTarget(split, splits, files, record.counts, attributes.image_size, attributes.checks)
    checks = [check for check in dataset.checks if names is None or check.name in names]
    return list(outcomes(target, checks, store.reports_folder(dataset.name)))


def _ingest(
    context: dg.AssetExecutionContext,
    dataset: Dataset,
    raw: RawImages,
    wanted: list[str],
    store: LanceStore,
    *,
    repair: bool,
) -> "dict[str, IngestReport]":
    """Bring the wanted splits up to date: one folder at a time, or all splits of one folder in one pass."""
    from lance_pipeline.ingest.ingestion import Limits, Watch, ingest

    attributes = dataset.attributes
    limits = Limits(attributes.ingest.on_bad_image, attributes.ingest.max_rejected_fraction)
    reports: dict[str, IngestReport] = {}
    there = _existing_splits(dataset, store)
    for source, splits in _sources(dataset, raw, wanted, store):
        watch = Watch(
            progress=progress_reporter(context, dataset.key(f"lance_{splits[0]}"), " and ".join(splits), "files"),
            waiting=lambda uri: context.log.info(printable(f"Waiting for another ingest, which is writing to {uri}.")),
            warning=lambda text: context.log.warning(printable(text)),
        )
        uris = {split: store.dataset_uri(f"{dataset.name}_{split}") for split in splits}
        if any(there[split].transparency != source.transparency for split in splits if split in there):
            context.log.info(
                f"{' and '.join(splits)}: every file is read once more, for `transparency: {source.transparency}` is "
                "new here; only images that it changes are written again."
            )
        reports |= ingest(source, uris, limits=limits, watch=watch, repair=repair)
    for split, report in reports.items():
        context.log.info(
            f"{split}: version {report.version}, {report.added} rows added, {report.removed} removed, "
            f"{report.rejected} of {report.scanned} files rejected"
        )
        if report.damaged:
            context.log.warning(
                f"{split}: {report.damaged} rows were damaged on the disk; {report.damaged - len(report.lost)} of them "
                "were written again from their files."
            )
        if report.lost:
            lost = ", ".join(path or "(unknown path)" for path in report.lost)
            gone = f"{split}: {len(report.lost)} damaged rows are lost, as their files are gone: {lost}"
            context.log.warning(printable(gone))
    return reports


def _sources(
    dataset: Dataset, raw: RawImages, wanted: list[str], store: LanceStore
) -> "Iterator[tuple[IngestSource, list[str]]]":
    """The folders to read, each with the splits made from it."""
    from lance_pipeline.ingest.ingestion import IngestSource
    from lance_pipeline.sources.listing import UNSPLIT, files_of_split
    from lance_pipeline.sources.split_assignment import ByFractions, FixedSplit

    fractions = dataset.attributes.splits.fractions
    if (UNSPLIT in raw.folders) != bool(fractions):
        raise InputError(
            f"`splits` of {dataset.name} has changed since its images were listed. Materialize "
            f"{dataset.key('raw_images').to_user_string()} first, or with it."
        )
    for folder_of in [UNSPLIT] if fractions else wanted:
        assignment = ByFractions(fractions.shares, fractions.salt) if fractions else FixedSplit(folder_of)
        name = dataset.name if fractions else f"{dataset.name}_{folder_of}"
        source = IngestSource(
            root=raw.root,
            folder=raw.folders[folder_of],
            files=partial(files_of_split, raw.listing.uri, raw.listing.version, folder_of, raw.listing.fingerprint),
            classes=raw.classes,
            assignment=assignment,
            seen_uri=store.folder_uri(f"{name}_seen"),
            transparency=dataset.attributes.transparency,
        )
        yield source, wanted if fractions else [folder_of]


def _data_version(report: "IngestReport") -> dg.DataVersion:
    """The version of the images' bytes and, if it can matter, of how transparent pixels are blended."""
    from lance_pipeline.storage.transparency import EARLIER

    suffix = "" if report.blended_on == EARLIER else f"-{report.blended_on}"
    return dg.DataVersion(report.fingerprint + suffix)


def _existing_splits(dataset: Dataset, store: LanceStore) -> "dict[str, LanceSplit]":
    """The existing splits of the dataset, including those that this step does not make."""
    from lance_pipeline.images import LanceSplit
    from lance_pipeline.storage.tables import find_table

    uris = {split: store.dataset_uri(f"{dataset.name}_{split}") for split in SPLITS}
    return {split: LanceSplit(uri) for split, uri in uris.items() if find_table(uri) is not None}


def split_record(report: "IngestReport") -> Split:
    """The record of a split that an ingest has brought up to date."""
    return Split(
        data=LanceVersion(uri=report.uri, version=report.version, fingerprint=report.fingerprint),
        quarantine=TableVersion(uri=report.rejected_uri, version=report.rejected_version),
        scanned=report.scanned,
        rows=report.rows,
        rejected=report.rejected,
        counts=report.counts,
        channels=report.channels,
    )


def _page(
    context: dg.AssetExecutionContext,
    store: LanceStore,
    key: dg.AssetKey,
    record: Split,
    data: "LanceSplit",
    report: "IngestReport",
    outcomes: "list[Outcome]",
) -> dg.MetadataValue:
    """Write the split's page and show its smaller pictures on the asset's page; returns the link."""
    from lance_pipeline.imaging.pictures import split_pictures

    pictures = split_pictures(data, record.counts, f"{key.path[-1]}: images per class")
    show_pictures(context, key, {"classes": pictures.classes, "samples": pictures.contact_sheet})
    content = split_page(key, record, data, report.reasons, outcomes, pictures)
    return write_page(context, store, key, "split", content)


def _metadata(record: Split, data: "LanceSplit", report: "IngestReport") -> dict[str, Any]:
    from lance_pipeline.storage.schema import REJECTED_SCHEMA

    metadata = {
        "dagster/uri": record.data.uri,
        "dagster/row_count": record.rows,
        "dagster/column_schema": column_schema(data.dataset.schema),
        "dagster/storage_kind": "lance",
        "size": size(data.size_in_bytes()),
        "lance_version": str(record.data.version),
        "added": report.added,
        "removed": report.removed,
        "scanned": record.scanned,
        "rejected": record.rejected,
        "quarantine": record.quarantine.uri,
        "quarantine_columns": column_schema(REJECTED_SCHEMA),
        "read_it": dg.MetadataValue.md(
            markdown_code(f'lance.dataset("{record.data.uri}", version={record.data.version}).to_table()')
        ),
    }
    if report.damaged:
        metadata |= {"damaged": report.damaged, "lost": ", ".join(report.lost) or "none"}
    if report.reasons:
        rows = [{"reason": reason, "files": files} for reason, files in report.reasons.items()]
        metadata["rejected_by_reason"] = table(rows)
    return metadata
