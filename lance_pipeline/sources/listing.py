"""Listing of a folder of images: every file with its split, label, size and modification time."""

import hashlib
import os
from dataclasses import dataclass, field

import lance
import pyarrow as pa
import pyarrow.compute as pc

from lance_pipeline.errors import DamagedError, InputError
from lance_pipeline.sources.scanning import LISTING_SCHEMA, FolderScan, folder_exists, subfolders
from lance_pipeline.storage.columns import slices_of
from lance_pipeline.storage.facts import read_facts
from lance_pipeline.storage.object_store import is_remote, join_uri
from lance_pipeline.storage.table_errors import is_damage
from lance_pipeline.storage.table_lock import locked
from lance_pipeline.storage.tables import commit_table, find_replaceable, open_table, remove_orphans
from lance_pipeline.storage.uris import Place, normalized_uri

UNSPLIT = ""
"""The split of files that are assigned to one only when their pixels are known."""
_EXAMPLES = 5
_INGESTED = ["path", "label", "size", "mtime_ns"]


@dataclass
class Listing:
    """The files in a dataset's folder.

    Attributes:
        root: the folder, a path or an object-store URI.
        folders: the folder of each split below ``root``; for files that are not yet split,
            ``UNSPLIT`` with the folder ``""``.
        files: a table of ``LISTING_SCHEMA``, sorted by split, label and path. ``path`` is relative
            to the split's folder and escaped as in ``lance_pipeline.sources.file_names``; ``size`` is in
            bytes, ``mtime_ns`` in nanoseconds since 1970.
        classes: the labels of train in alphabetical order; the position is the class index.
        ignored: hidden files and files outside of class folders.
    """

    root: str
    folders: dict[str, str]
    files: pa.Table
    classes: list[str]
    ignored: list[str] = field(default_factory=list)

    def counts(self) -> dict[str, dict[str, int]]:
        """The number of files per split and label; zero where a split lacks a label."""
        counts = {split: dict.fromkeys(self.classes, 0) for split in self.folders}
        groups = self.files.group_by(["split", "label"]).aggregate([("path", "count")])
        for row in groups.to_pylist():
            counts[row["split"]][row["label"]] = row["path_count"]
        return counts

    def fingerprint(self) -> str:
        """A digest that changes with any file's split, label, path, size or time."""
        return _fingerprint(self.files)


def list_split_folders(place: Place, folders: dict[str, str]) -> Listing:
    """List ``<root>/<folder>/<label>/…/<file>`` for each split's folder.

    Raises:
        InputError: a folder is missing or has no classes or no images, a class folder of train
            is empty, or a split has a class that train lacks.
    """
    root = normalized_uri(place)
    _require_root(root)
    tables, ignored = [], []
    for split, folder in folders.items():
        path = join_uri(root, folder)
        if not folder_exists(path):
            raise InputError(
                f"the folder of split {split!r} is missing: {path}. {root} holds "
                f"{_names(subfolders(root)) or 'no folders'}. Name the split's folder under `splits`, such as "
                "`splits: {val: valid}`, or have one folder of classes split with "
                "`splits: {fractions: {train: 0.7, val: 0.15, test: 0.15}}`."
            )
        tables.append(_classes_of(FolderScan(root, folder, split), path, ignored))
    listing = Listing(root, folders, _in_order(folders, tables), _labels(tables[0]), ignored)
    for split, labels in listing.counts().items():
        if unknown := [label for label in labels if label not in listing.classes]:
            raise InputError(
                f"split {split!r} in {root} has classes that train lacks: {_names(unknown)}. "
                f"train has {_names(listing.classes)}. Rename or remove them, or add them to train; if the splits have "
                "different classes on purpose, split the images again: `splits: {fractions: {pool: [train, …]}}`."
            )
    return _with_two_classes(listing)


def list_unsplit_folders(place: Place, pool: list[str] | None = None) -> Listing:
    """List ``<root>/<label>/…/<file>``, or the same below each folder of ``pool``, merged.

    Raises:
        InputError: a folder is missing or has no classes or no images, or a class folder is empty.
    """
    root = normalized_uri(place)
    _require_root(root)
    tables, ignored = [], []
    for folder in pool or [""]:
        path = join_uri(root, folder)
        if not folder_exists(path):
            raise InputError(
                f"the folder {path}, named under `splits.fractions.pool`, is missing. {root} holds "
                f"{_names(subfolders(root)) or 'no folders'}."
            )
        tables.append(_classes_of(FolderScan(root, folder, UNSPLIT, from_root=True), path, ignored))
    table = _sorted(tables) if len(tables) > 1 else tables[0].combine_chunks()
    return _with_two_classes(Listing(root, {UNSPLIT: ""}, table, _labels(table), ignored))


def store_listing(listing: Listing, uri: Place) -> tuple[int, str]:
    """Store the listing as a Lance dataset, with a new version only if it has changed.

    A damaged dataset is replaced.

    Returns:
        The version and the fingerprint of the listing.

    Raises:
        InputError: the dataset cannot be written.
    """
    fingerprint = listing.fingerprint()
    facts = {"fingerprint": fingerprint, "root": listing.root, "classes": listing.classes}
    with locked([uri]):
        kept = find_replaceable(uri, _is_intact)
        if kept is None or read_facts(kept)["fingerprint"] != fingerprint:
            kept = commit_table(uri, LISTING_SCHEMA, listing.files.to_batches(), facts)
        # Left over from a killed run; removed even if the listing has not changed.
        remove_orphans(uri)
    return kept.version, fingerprint


def files_of_split(uri: str, version: int, split: str, fingerprint: str) -> pa.Table:
    """The files of one split in a stored listing, as :func:`files_to_ingest`.

    Args:
        uri: the listing.
        version: of the listing.
        split: the split.
        fingerprint: of the whole listing, as returned by :func:`store_listing`.

    Raises:
        DamagedError: the listing differs from what was stored.
        InputError: there is no such listing.
    """
    try:
        files = _files(open_table(uri, version))
        intact = _fingerprint(files) == fingerprint
    except BaseException as error:
        if not is_damage(error):
            raise
        raise DamagedError(f"{_damage_message(uri, version)} ({error})") from error
    if not intact:
        raise DamagedError(_damage_message(uri, version))
    return files_to_ingest(files.filter(pc.field("split") == split))


def _damage_message(uri: str, version: int) -> str:
    return (
        f"version {version} of the listing {uri} is damaged or missing. Materialize raw_images again to list the "
        "images and replace it"
    )


def _is_intact(stored: lance.LanceDataset) -> bool:
    return _fingerprint(_files(stored)) == read_facts(stored).get("fingerprint")


def _files(stored: lance.LanceDataset) -> pa.Table:
    return stored.to_table(columns=LISTING_SCHEMA.names).cast(LISTING_SCHEMA)


def _fingerprint(files: pa.Table) -> str:
    digest = hashlib.sha256()
    for name in ("split", "label", "path"):
        for number, texts in enumerate(slices_of(files[name])):
            # No name contains NUL, so that adjacent names cannot be confused.
            digest.update(b"\0" * bool(number) + "\0".join(texts).encode())
    for name in ("size", "mtime_ns"):
        digest.update(files[name].to_numpy().tobytes())
    return digest.hexdigest()


def files_to_ingest(files: pa.Table) -> pa.Table:
    """The columns of a LISTING_SCHEMA table that an ingest keeps in memory, with dictionary-encoded labels."""
    kept = files.select(_INGESTED)
    return kept.set_column(_INGESTED.index("label"), "label", kept["label"].combine_chunks().dictionary_encode())


def _classes_of(scan: FolderScan, path: str, ignored: list[str]) -> pa.Table:
    table = scan.table()
    ignored += scan.ignored
    if not table.num_rows and not scan.empty:
        ignored_here = f" Hidden or not a folder: {_names(sorted(scan.ignored))}." if scan.ignored else ""
        raise InputError(
            f"{path} has no class folders. Expected one folder for each class, with its images inside.{ignored_here}"
        )
    if not table.num_rows:
        raise InputError(f"{path} has class folders but no images in them. Add images, or correct the path.")
    if scan.empty and (scan.split in ("train", UNSPLIT)):
        raise InputError(
            f"class folders of {path} are empty: {_names(sorted(scan.empty))}. Add images to them, or remove them."
        )
    return table


def _labels(table: pa.Table) -> list[str]:
    return sorted(table["label"].unique().to_pylist())


def _in_order(folders: dict[str, str], tables: list[pa.Table]) -> pa.Table:
    """The tables in the order of their splits."""
    tables = [table for _, table in sorted(zip(folders, tables, strict=True), key=lambda one: one[0])]
    return pa.concat_tables(tables).combine_chunks()


def _sorted(tables: list[pa.Table]) -> pa.Table:
    return pa.concat_tables(tables).combine_chunks().sort_by([("label", "ascending"), ("path", "ascending")])


def _with_two_classes(listing: Listing) -> Listing:
    if len(listing.classes) < 2:
        raise InputError(
            f"{listing.root} has only one class, {_names(listing.classes)}; a classifier needs at least two. "
            "Expected <split>/<label>/<file>."
        )
    return listing


def _require_root(root: str) -> None:
    if folder_exists(root):
        return
    there = ""
    if not is_remote(root):
        parent = os.path.dirname(os.path.abspath(root))
        there = f"; {parent} holds {_names(subfolders(parent)) or 'no folders'}"
        there = there if os.path.isdir(parent) else f"; {parent} is missing too"
    raise InputError(
        f"the folder {root} is missing{there}. Set `source: {{folder: …}}` to a folder of "
        "<split>/<label>/<file>, or put the images there."
    )


def _names(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:_EXAMPLES])
    return shown if len(names) <= _EXAMPLES else f"{shown} and {len(names) - _EXAMPLES} more"
