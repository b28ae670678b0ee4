"""The folder of images: found or created, and listed once."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import dagster as dg

from lance_pipeline.display import printable
from lance_pipeline.errors import InputError
from lance_pipeline.orchestration.attributes import Archive
from lance_pipeline.orchestration.checks import answers
from lance_pipeline.orchestration.dataset import Dataset, settings_version
from lance_pipeline.orchestration.lance_store import LanceStore
from lance_pipeline.orchestration.metadata import column_schema, shown, table
from lance_pipeline.orchestration.pages.page import write_page
from lance_pipeline.orchestration.pages.raw_images_page import raw_images_page
from lance_pipeline.orchestration.record_io import RecordIOManager
from lance_pipeline.orchestration.records import LanceVersion, RawImages
from lance_pipeline.orchestration.runtime.failures import clear_failures
from lance_pipeline.orchestration.runtime.progress import progress_reporter
from lance_pipeline.orchestration.runtime.supervision import interruptible

if TYPE_CHECKING:
    from lance_pipeline.sources.listing import Listing

CODE_VERSION = "1"
_MEGABYTE = 1_000_000


def build_raw_images(dataset: Dataset) -> dg.AssetsDefinition:
    """The asset ``<dataset>/raw_images``."""
    key, attributes = dataset.key("raw_images"), dataset.attributes
    spec = dataset.spec(
        "raw_images",
        "The folder of images: found or made, listed once, its shape checked and the order of the classes fixed.",
        {"file"},
        settings_version(CODE_VERSION, attributes.source.identity(), attributes.splits),
    )
    check = dg.AssetCheckSpec(
        "same_classes",
        asset=key,
        blocking=True,
        description="Every class of train has files in val and test too; where one has none, the asset itself fails.",
    )

    @dg.multi_asset(
        name=f"{dataset.name}__raw_images",
        outs={"raw_images": dg.AssetOut.from_spec(spec, is_required=False)},
        check_specs=[check],
        op_tags=dataset.step_tags,
        can_subset=True,
    )
    def raw_images(
        context: dg.AssetExecutionContext, lance_store: LanceStore, io_manager: dg.ResourceParam[RecordIOManager]
    ):
        from lance_pipeline.sources.listing import store_listing
        from lance_pipeline.sources.scanning import LISTING_SCHEMA

        if key not in context.selected_asset_keys:
            with clear_failures(context):
                yield from answers(context, io_manager, key, RawImages, lambda record, _: [_same_classes(key, record)])
            return
        with clear_failures(context), interruptible(context):
            listing, listed = _list(dataset, context), datetime.now(UTC)
            uri = lance_store.dataset_uri(f"{dataset.name}_listing")
            version, fingerprint = store_listing(listing, uri)
        counts = listing.counts()
        record = RawImages(
            root=listing.root,
            folders=listing.folders,
            listing=LanceVersion(uri=uri, version=version, fingerprint=fingerprint),
            classes=listing.classes,
            counts=counts,
        )
        yield _same_classes(key, record)
        with clear_failures(context):
            _require_classes(record)
            page = write_page(context, lance_store, key, "raw_images", raw_images_page(key, record, listing, listed))
        if listing.ignored:
            context.log.warning(
                f"Passed over {len(listing.ignored)} files that are hidden or outside of class folders."
            )
        yield dg.MaterializeResult(
            asset_key=key,
            value=record,
            data_version=dg.DataVersion(fingerprint),
            metadata=shown(
                {
                    "page": page,
                    "dagster/uri": listing.root,
                    "dagster/row_count": listing.files.num_rows,
                    "dagster/column_schema": column_schema(LISTING_SCHEMA),
                    "classes": ", ".join(listing.classes),
                    "images_per_class": table(
                        [
                            {"label": label, **{split or "files": counts[split][label] for split in counts}}
                            for label in listing.classes
                        ]
                    ),
                    "listing": uri,
                    "lance_version": str(version),
                    "ignored": len(listing.ignored),
                    "ignored_examples": ", ".join(listing.ignored[:5]),
                }
            ),
        )

    return raw_images


def _missing(record: RawImages) -> dict[str, list[str]]:
    """Each split's classes without files."""
    return {split: [label for label in labels if not labels[label]] for split, labels in record.counts.items()}


def _same_classes(key: dg.AssetKey, record: RawImages) -> dg.AssetCheckResult:
    missing = _missing(record)
    return dg.AssetCheckResult(
        asset_key=key,
        check_name="same_classes",
        passed=not any(missing.values()),
        metadata=shown({f"missing_in_{split or 'all'}": ", ".join(labels) for split, labels in missing.items()}),
    )


def _require_classes(record: RawImages) -> None:
    lacking = [f"{label!r} in {split}" for split, labels in _missing(record).items() for label in labels]
    if lacking:
        raise InputError(
            f"{record.root} has classes without files: "
            f"{', '.join(lacking[:5])}{' and others' if len(lacking) > 5 else ''}. "
            "A model that was trained on a class must be measured on it: add images, or remove the class from train.",
            lacking,
        )


def _list(dataset: Dataset, context: dg.AssetExecutionContext) -> "Listing":
    """List the dataset's folder, which is created first if the source is a sample or an archive."""
    from lance_pipeline.sources.listing import list_split_folders, list_unsplit_folders
    from lance_pipeline.sources.sample import make_sample

    attributes = dataset.attributes
    source = attributes.source
    if source.sample and make_sample(source.sample, dataset.folder):
        context.log.info(printable(f"Made the sample {source.sample!r} at {dataset.folder}"))
    if source.archive:
        _unpack(source.archive, dataset, context)
    if attributes.splits.fractions:
        return list_unsplit_folders(dataset.folder, attributes.splits.fractions.pool)
    return list_split_folders(dataset.folder, attributes.splits.folders)


def _unpack(archive: Archive, dataset: Dataset, context: dg.AssetExecutionContext) -> None:
    """Create the dataset's folder from the archive, unless it exists."""
    from lance_pipeline.sources.archive import make_from_archive

    report = progress_reporter(context, dataset.key("raw_images"), "Download", "MB")

    def on_progress(done: int, total: int | None) -> None:
        report(done // _MEGABYTE, None if total is None else total // _MEGABYTE)

    if make_from_archive(
        archive.url,
        archive.checksum,
        dataset.folder,
        max_bytes=archive.max_bytes,
        max_members=archive.max_members,
        min_bytes_per_second=archive.min_bytes_per_second,
        on_progress=on_progress,
    ):
        checked = f"of checksum {archive.checksum}" if archive.checksum else "of unchecked content"
        context.log.info(printable(f"Unpacked {archive.url}, {checked}, to {dataset.folder}"))
