"""Folders of images to Lance datasets: every file accounted for, only changes worked on."""

import logging
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from functools import reduce

import lance
import numpy as np
import pyarrow as pa

from lance_pipeline.errors import InputError
from lance_pipeline.freed_memory import give_back_freed_memory, keep_freed_memory
from lance_pipeline.imaging.channels import ChannelSums
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

_log = logging.getLogger(__name__)
_ATTEMPTS = 5
_EXAMPLES = 5


@dataclass(frozen=True)
class IngestReport:
    """What an ingest did and what the split now holds.

    Attributes:
        uri: the Lance dataset.
        version: its version, a new one only where the content changed.
        scanned: files of this split; always ``rows + rejected``.
        rows, rejected: images in the dataset, and files in the quarantine.
        rejected_uri, rejected_version: the quarantine, a Lance dataset.
        reasons: rejected files by reason, the commonest first.
        added, removed: rows that this ingest wrote anew and rows that it took out; a changed file
            counts as both.
        fingerprint: of all (path, label, bytes), whatever their order.
        counts: images per label, in the order of the class indices.
        channels: exact sums over all pixels.
        blended_on: what transparent pixels were when rows last changed; another choice that changes none leaves it.
        damaged: rows whose bytes on the disk were not those that were ingested; found with ``repair`` only.
        lost: of these the paths that no file has now; "" where a path could not be read.
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
    """Callbacks for what happens while an ingest runs.

    Attributes:
        progress: called with (files read, files to read) now and then; unchanged files are not read.
        waiting: called with the URI of a dataset that somebody else is writing to.
        warning: called, from any thread, with a line about something that went wrong and was made good.
    """

    progress: Callable[[int, int], None] = lambda done, total: None
    waiting: Callable[[str], None] = lambda uri: None
    warning: Callable[[str], None] = _log.warning


@dataclass(frozen=True)
class IngestSource:
    """The files of one folder, and how they are assigned to splits.

    Attributes:
        root: the dataset's folder, a path or an object-store URI.
        folder: the folder below ``root`` that the files' paths are relative to.
        files: gives a table with the columns of ``listing.files_to_ingest``, which is not kept while they are read.
        classes: the labels in the order of their class indices; None for those of the files.
        assignment: the split of each file.
        seen_uri: the folder that remembers what was seen.
        transparency: what transparent pixels become.
    """

    root: str
    folder: str
    files: Callable[[], pa.Table]
    classes: list[str] | None
    assignment: Assignment
    seen_uri: str
    transparency: Transparency = TRANSPARENCY


_LIMITS, _WATCH = Limits(), Watch()


def ingest_split(
    root: str,
    split: str,
    uri: str,
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
    """Bring the Lance dataset at ``uri`` in line with the images of one split.

    Each file is decoded once, to prove that it can be, and ends as a row, its bytes unchanged, or
    in the quarantine ``<uri>_rejected.lance``. Rows are stored in the order of a hash of their
    path, those of a later ingest behind them, so that any stretch of what came at once is a fair
    sample. Only new, changed and removed files cause work, and one atomic commit; an interrupted
    ingest resumes where it was.

    Args:
        root: the dataset's folder, a path or an object-store URI.
        split: the split's name, written to the column of that name.
        uri: the Lance dataset to make or to renew, a path or an object-store URI.
        folder: the split's folder below ``root``; by default the split's name.
        files: the split's files as a table of ``scanning.LISTING_SCHEMA``; listed when None.
        classes: the labels in the order of their class indices; the listed ones when None.
        limits: how many files may be rejected.
        watch: who is told while it runs.
        threads: how many files are read and decoded at the same time.
        repair: read all stored rows too, and write those that are damaged again, from their files.
        transparency: what transparent pixels become: blended with a plain background, or with ``drop`` whatever colour
            hides in them. The bytes stay as they are; digests, hashes, sums and the images that loaders give follow it.

    Raises:
        InputError: files are missing, too many are rejected (the message names them), or the
            dataset cannot be written. The previous version is intact then.
    """
    folder = split if folder is None else folder

    def listed() -> pa.Table:
        return files_to_ingest(list_split_folders(root, {split: folder}).files) if files is None else files

    seen_uri = f"{uri.removesuffix('.lance')}_seen"
    source = IngestSource(root, folder, listed, classes, FixedSplit(split), seen_uri, transparency)
    return ingest(source, {split: uri}, limits=limits, watch=watch, threads=threads, repair=repair)[split]


def ingest(
    source: IngestSource,
    uris: dict[str, str],
    *,
    limits: Limits = _LIMITS,
    watch: Watch = _WATCH,
    threads: int | None = None,
    repair: bool = False,
) -> dict[str, IngestReport]:
    """Bring the Lance datasets of some splits in line with one source, in one pass over its files.

    Args:
        source: the files.
        uris: the Lance dataset of each split to make or to renew; files of other splits are left out.
        limits: how many files may be rejected.
        watch: who is told while it runs.
        threads: how many files are read and decoded at the same time.
        repair: as for :func:`ingest_split`.

    Raises:
        InputError: as :func:`ingest_split`, or a class would be empty in a split that is drawn.
    """
    with locked([*uris.values(), source.seen_uri], watch.waiting):
        for _ in range(_ATTEMPTS):
            try:
                return _ingest_once(source, uris, limits, watch, threads, repair=repair)
            except ConflictError:
                # Somebody on another host, or another tool, committed in between: look again.
                continue
        raise InputError(
            f"others wrote to {', '.join(uris.values())} each of the {_ATTEMPTS} times that it was brought up to date. "
            "Materialize it again when they are done."
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
            seen.begin()
        if backlog.files:
            give_back_freed_memory()
            with keep_freed_memory():
                _work(source, stored, plan, backlog, seen, limits, watch, threads)
    _check_limits(source, plan, limits, complete=True)
    _check_classes(source, plan)
    reports = {split: _committed(source, stored[split], plan) for split in uris}
    if seen.unfinished:
        for uri in uris.values():
            remove_orphans(uri)
            remove_orphans(rejected_uri(uri))
    seen.settle(uris.keys())
    return reports


def _work(
    source: IngestSource,
    stored: dict[str, StoredSplit],
    plan: Plan,
    backlog: Backlog,
    seen: SeenFiles,
    limits: Limits,
    watch: Watch,
    threads: int | None,
) -> None:
    """Read the backlog, and complete the plan."""
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
                    intake.take(positions, outcome)
                    if outcome.rejected and limits.exceeded(len(plan.rejected), len(plan.codes)):
                        intake.finish_step()
                        _check_limits(source, plan, limits, complete=False)
                    done += len(positions)
                    watch.progress(done, backlog.files)
            intake.finish_step()
        except BaseException:
            intake.abandon()
            seen.stop()
            raise


def _check_limits(source: IngestSource, plan: Plan, limits: Limits, *, complete: bool) -> None:
    where = join_uri(source.root, source.folder)
    limits.check(where, list(plan.rejected.values()), len(plan.codes), complete=complete)


def _check_classes(source: IngestSource, plan: Plan) -> None:
    """A drawn split without images of a class is of no use.

    Raises:
        InputError: there is one.
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
            f"cutting {source.root} by fractions leaves classes without images: {', '.join(empty[:_EXAMPLES])}"
            f"{' and others' if len(empty) > _EXAMPLES else ''}. Add images to these classes, raise the fraction, set "
            "another `salt`, or make the splits by hand as folders.",
            empty,
        )


def _classes(source: IngestSource, plan: Plan) -> list[str]:
    """The labels in the order of their class indices."""
    return source.classes or sorted(plan.labels.unique().to_pylist())


def _committed(source: IngestSource, stored: StoredSplit, plan: Plan) -> IngestReport:
    """Commit quarantine and rows of one split."""
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
        lost=_lost(stored, dataset),
    )


def _lost(stored: StoredSplit, dataset: lance.LanceDataset) -> list[str]:
    """The paths of damaged rows that the new version does not have; "" for each whose path is unknown and missed."""
    if not stored.damaged:
        return []
    paths = [row.path for row in stored.damaged if row.path]
    there = dataset.to_table(columns=["path"])["path"]
    lost = [path for path, at in zip(paths, positions(pa.array(paths, pa.string()), there), strict=True) if at < 0]
    unknown = max(stored.facts["rows"] - dataset.count_rows() - len(lost), 0)
    return lost + [""] * min(unknown, len(stored.damaged) - len(paths))
