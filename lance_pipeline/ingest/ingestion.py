"""Image folders to Lance datasets: accounts for every file, reads only what changed."""

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import reduce

import lance
import numpy as np
import pyarrow as pa

from lance_pipeline.errors import InputError, ServiceError
from lance_pipeline.freed_memory import give_back_freed_memory, keep_freed_memory
from lance_pipeline.imaging.channels import ChannelSums
from lance_pipeline.imaging.derived_columns import add_missing_columns
from lance_pipeline.ingest.backlog import Backlog
from lance_pipeline.ingest.crew import outcomes
from lance_pipeline.ingest.examination import Job
from lance_pipeline.ingest.intake import Intake
from lance_pipeline.ingest.plan import Plan, make_plan
from lance_pipeline.ingest.quarantine import Limits, rejected_uri, store_rejected
from lance_pipeline.ingest.seen_files import SeenFiles
from lance_pipeline.ingest.stored_split import StoredSplit
from lance_pipeline.ingest.totals import Totals
from lance_pipeline.sources.listing import files_to_ingest, list_split_folders
from lance_pipeline.sources.raw_files import FileReader
from lance_pipeline.sources.split_assignment import Assignment, FixedSplit
from lance_pipeline.storage.columns import positions
from lance_pipeline.storage.facts import read_facts
from lance_pipeline.storage.object_store import join_uri
from lance_pipeline.storage.table_errors import ConflictError
from lance_pipeline.storage.table_lock import locked
from lance_pipeline.storage.tables import remove_orphans
from lance_pipeline.storage.transparency import TRANSPARENCY, Transparency
from lance_pipeline.storage.uris import Place, normalized_uri

_log = logging.getLogger(__name__)
_ATTEMPTS = 5
_EXAMPLES = 5


@dataclass(frozen=True)
class IngestReport:
    """What an ingest did and what the split holds now.

    Attributes:
        uri: the Lance dataset.
        version: its version; a new one only if the content changed.
        scanned: files of this split; always ``rows + rejected``.
        rows, rejected: images in the dataset, and files in the quarantine.
        rejected_uri, rejected_version: the quarantine, a Lance dataset.
        reasons: rejected files by reason, the most common first.
        added, removed: rows that this ingest wrote and removed; a changed file counts as both.
        fingerprint: of all (path, label, bytes), independent of their order.
        counts: images per label, in the order of the class indices.
        channels: exact sums over all pixels.
        blended_on: the transparency setting when rows last changed; a new setting that changes no row leaves it.
        damaged: rows whose stored bytes were not those that were ingested; found with ``repair`` only.
        lost: the paths of damaged rows that no file could restore; "" if a path could not be read.
    """

    uri: str
    version: int
    scanned: int
    rows: int
    rejected: int
    rejected_uri: str
    rejected_version: int
    reasons: dict[str, int]
    added: int
    removed: int
    fingerprint: str
    counts: dict[str, int]
    channels: ChannelSums
    blended_on: Transparency
    damaged: int = 0
    lost: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Watch:
    """Callbacks for the progress of an ingest.

    Attributes:
        progress: called regularly with (files read, files to read); unchanged files are not read.
        waiting: called with the URI of a dataset that another process is writing to.
        warning: called, from any thread, with a message about a problem that the ingest recovered from.
    """

    progress: Callable[[int, int], None] = lambda done, total: None
    waiting: Callable[[str], None] = lambda uri: None
    warning: Callable[[str], None] = _log.warning


@dataclass(frozen=True)
class IngestSource:
    """The files of one folder, and their assignment to splits.

    Attributes:
        root: the dataset's folder, a path or an object-store URI.
        folder: the folder below ``root`` that the files' paths are relative to.
        files: returns a table with the columns of ``listing.files_to_ingest``; it is not kept while the files are read.
        classes: the labels in the order of their class indices; None takes them from the files.
        assignment: the split of each file.
        seen_uri: the folder that remembers what was seen.
        transparency: what transparent pixels become.
    """

    root: Place
    folder: str
    files: Callable[[], pa.Table]
    classes: list[str] | None
    assignment: Assignment
    seen_uri: Place
    transparency: Transparency = TRANSPARENCY


_LIMITS, _WATCH = Limits(), Watch()


def ingest_split(
    root: Place,
    split: str,
    uri: Place,
    *,
    folder: str | None = None,
    files: pa.Table | None = None,
    classes: list[str] | None = None,
    limits: Limits = _LIMITS,
    watch: Watch = _WATCH,
    threads: int | None = None,
    repair: bool = False,
    transparency: Transparency = TRANSPARENCY,
) -> IngestReport:
    """Update the Lance dataset at ``uri`` to match the images of one split.

    Each file is decoded once, to prove that it can be, and becomes a row with its bytes unchanged, or
    is listed in the quarantine ``<uri>_rejected.lance``. Rows are stored in the order of a hash of
    their path, and a later ingest appends its rows, so that any range of rows from one ingest is a fair
    sample. Only new, changed and removed files cause work, in one atomic commit; an interrupted
    ingest resumes where it stopped.

    Args:
        root: the dataset's folder, a path or URI: local, ``file://`` or ``s3://``.
        split: the split's name, written to the column of that name.
        uri: the Lance dataset to create or update, a path or URI.
        folder: the split's folder below ``root``; by default the split's name.
        files: the split's files as a table of ``scanning.LISTING_SCHEMA``; None lists the folder.
        classes: the labels in the order of their class indices; None takes the listed ones.
        limits: how many files may be rejected.
        watch: callbacks for progress, waiting and warnings.
        threads: how many files to read and decode in parallel.
        repair: also verify all stored rows, and rewrite damaged ones from their files.
        transparency: what transparent pixels become: blended with a plain background, or with ``drop`` the colour
            stored beneath the alpha channel. The bytes are stored unchanged; digests, hashes, sums and the images
            from loaders follow this setting.

    Raises:
        InputError: files are missing, too many are rejected (the message names them), or the
            dataset cannot be written. The previous version stays intact.
    """
    folder, root, uri = split if folder is None else folder, normalized_uri(root), normalized_uri(uri)

    def list_files() -> pa.Table:
        return files_to_ingest(list_split_folders(root, {split: folder}).files) if files is None else files

    seen_uri = f"{uri.removesuffix('.lance')}_seen"
    source = IngestSource(root, folder, list_files, classes, FixedSplit(split), seen_uri, transparency)
    return ingest(source, {split: uri}, limits=limits, watch=watch, threads=threads, repair=repair)[split]


def ingest(
    source: IngestSource,
    uris: Mapping[str, Place],
    *,
    limits: Limits = _LIMITS,
    watch: Watch = _WATCH,
    threads: int | None = None,
    repair: bool = False,
) -> dict[str, IngestReport]:
    """Update the Lance datasets of some splits to match one source, in one pass over its files.

    Args:
        source: the files.
        uris: the Lance dataset of each split to create or update; files of other splits are skipped.
        limits: how many files may be rejected.
        watch: callbacks for progress, waiting and warnings.
        threads: how many files to read and decode in parallel.
        repair: as for :func:`ingest_split`.

    Raises:
        InputError: as for :func:`ingest_split`, or a class would have no images in a split drawn by fractions.
        ServiceError: the object store is away, or other processes keep changing the datasets.
    """
    places = {split: normalized_uri(uri) for split, uri in uris.items()}
    source = replace(source, root=normalized_uri(source.root), seen_uri=normalized_uri(source.seen_uri))
    with locked([*places.values(), source.seen_uri], watch.waiting):
        for _ in range(_ATTEMPTS):
            try:
                return _ingest_once(source, places, limits, watch, threads, repair=repair)
            except ConflictError:
                # Another host or another tool committed in between: plan again.
                continue
        raise ServiceError(
            f"another process changed {', '.join(places.values())} during each of {_ATTEMPTS} attempts to update it. "
            "Materialize it again when that process has finished."
        )


def _ingest_once(
    source: IngestSource, uris: dict[str, str], limits: Limits, watch: Watch, threads: int | None, *, repair: bool
) -> dict[str, IngestReport]:
    seen = SeenFiles(source.seen_uri, source.transparency)
    stored = {
        split: StoredSplit(split, uri, transparency=source.transparency, repair=repair) for split, uri in uris.items()
    }
    plan, backlog = make_plan(source.files(), seen, stored, source.assignment)
    with backlog:
        if backlog.files or not all(kept.all() for kept in plan.kept.values()):
            seen.mark_started()
        if backlog.files:
            give_back_freed_memory()
            with keep_freed_memory():
                _read_backlog(source, stored, plan, backlog, seen, limits, watch, threads)
    _check_limits(source, plan, limits, complete=True)
    _check_classes(source, plan)
    reports = {split: _commit_split(source, stored[split], plan) for split in uris}
    if seen.unfinished:
        for uri in uris.values():
            remove_orphans(uri)
            remove_orphans(rejected_uri(uri))
    seen.mark_committed(uris.keys())
    return reports


def _read_backlog(
    source: IngestSource,
    stored: dict[str, StoredSplit],
    plan: Plan,
    backlog: Backlog,
    seen: SeenFiles,
    limits: Limits,
    watch: Watch,
    threads: int | None,
) -> None:
    """Read the backlog and complete the plan."""
    intake = Intake(plan, stored, seen)
    done = 0
    watch.progress(done, backlog.files)
    with FileReader(source.root, source.folder) as reader:
        blended_otherwise = any(one.blended_otherwise for one in stored.values())
        job = Job(reader, source.assignment, frozenset(stored), source.transparency, blended_otherwise)
        examined = outcomes(
            job,
            backlog,
            lambda files: plan.stored_digests(files, stored),
            threads,
            warn=watch.warning,
            guarded=seen.killed,
        )
        try:
            with closing(examined):
                for positions, outcome in examined:
                    intake.add(positions, outcome)
                    if outcome.rejected and limits.exceeded(len(plan.rejected), len(plan.codes)):
                        intake.finish_step()
                        _check_limits(source, plan, limits, complete=False)
                    done += len(positions)
                    watch.progress(done, backlog.files)
            intake.finish_step()
        except BaseException:
            intake.abandon()
            seen.mark_stopped()
            raise


def _check_limits(source: IngestSource, plan: Plan, limits: Limits, *, complete: bool) -> None:
    where = join_uri(normalized_uri(source.root), source.folder)
    limits.check(where, list(plan.rejected.values()), len(plan.codes), complete=complete)


def _check_classes(source: IngestSource, plan: Plan) -> None:
    """Require images of every class in splits that are drawn by fractions.

    Raises:
        InputError: a class would have no images in a split.
    """
    splits = source.assignment.splits
    if len(splits) == 1:
        return
    good = np.ones(len(plan.codes), dtype=bool)
    good[list(plan.rejected)] = False
    empty = []
    for code, split in enumerate(splits):
        there = set(plan.labels.filter(pa.array(good & (plan.codes == code))).unique().to_pylist())
        empty += [f"{label!r} in {split}" for label in _classes(source, plan) if label not in there]
    if empty:
        raise InputError(
            f"splitting {source.root} by fractions leaves classes without images: {', '.join(empty[:_EXAMPLES])}"
            f"{' and others' if len(empty) > _EXAMPLES else ''}. Add images to these classes, raise the fraction, set "
            "another `salt`, or split the images into folders by hand.",
            empty,
        )


def _classes(source: IngestSource, plan: Plan) -> list[str]:
    """The labels in the order of their class indices."""
    return source.classes or sorted(plan.labels.unique().to_pylist())


def _commit_split(source: IngestSource, stored: StoredSplit, plan: Plan) -> IngestReport:
    """Commit the quarantine and the rows of one split."""
    code = source.assignment.splits.index(stored.split)
    rejected = [one for position, one in plan.rejected.items() if plan.codes[position] == code]
    quarantine = rejected_uri(stored.uri)
    version = store_rejected(quarantine, rejected)
    written = [one for one in plan.written if one.split == stored.split]
    totals = reduce(Totals.plus, (one.totals for one in written), Totals())
    facts = {
        "classes": _classes(source, plan),
        "quarantine": {"uri": quarantine, "version": version, "rows": len(rejected)},
    }
    kept = plan.kept[stored.split]
    dataset = stored.commit(kept, [fragment for one in written for fragment in one.fragments], totals, facts)
    dataset = add_missing_columns(dataset)
    facts = read_facts(dataset)
    return IngestReport(
        uri=stored.uri,
        version=dataset.version,
        scanned=int((plan.codes == code).sum()),
        rows=dataset.count_rows(),
        rejected=len(rejected),
        rejected_uri=quarantine,
        rejected_version=version,
        reasons=dict(Counter(one.reason for one in rejected).most_common()),
        added=totals.rows,
        removed=int((~kept).sum()),
        fingerprint=facts["fingerprint"],
        counts=facts["counts"],
        channels=ChannelSums.model_validate(facts["channels"]),
        blended_on=facts["blended_on"],
        damaged=len(stored.damaged),
        lost=_lost_paths(stored, dataset),
    )


def _lost_paths(stored: StoredSplit, dataset: lance.LanceDataset) -> list[str]:
    """The paths of damaged rows that the new version lacks; "" for each missing row whose path is unknown."""
    if not stored.damaged:
        return []
    paths = [row.path for row in stored.damaged if row.path]
    there = dataset.to_table(columns=["path"])["path"]
    lost = [path for path, at in zip(paths, positions(pa.array(paths, pa.string()), there), strict=True) if at < 0]
    unknown = max(stored.facts["rows"] - dataset.count_rows() - len(lost), 0)
    return lost + [""] * min(unknown, len(stored.damaged) - len(paths))
