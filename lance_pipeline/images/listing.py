"""List a folder of images once: every file with its split, label, size and time."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from lance_pipeline.errors import InputError
from lance_pipeline.images.fingerprint import Fingerprint
from lance_pipeline.images.names import escape_name
from lance_pipeline.images.splitting import assign_splits
from lance_pipeline.images.table import commit_table, open_table, read_facts, table_exists

LISTING_SCHEMA = pa.schema(
    [
        pa.field("split", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("mtime_ns", pa.int64(), nullable=False),
    ]
)
# Files that file managers leave behind; everything hidden is passed over as well.
_LITTER = {b"thumbs.db", b"desktop.ini"}
_EXAMPLES = 5


@dataclass
class Listing:
    """What a dataset's folder holds.

    Attributes:
        root: the folder.
        folders: for each split its folder below ``root``; ``""`` where one folder holds all splits.
        files: a table of ``LISTING_SCHEMA``, sorted by split, label and path. ``path`` is relative
            to the split's folder and escaped as in ``lance_pipeline.images.names``; ``size`` is in
            bytes, ``mtime_ns`` in nanoseconds since 1970.
        classes: the labels of train in alphabetical order; the position is the class index.
        ignored: hidden files and files outside of class folders, which are not images of a class.
    """

    root: str
    folders: dict[str, str]
    files: pa.Table
    classes: list[str]
    ignored: list[str] = field(default_factory=list)

    def counts(self) -> dict[str, dict[str, int]]:
        """The number of images per split and label; zero where a split lacks a label."""
        counts = {split: dict.fromkeys(self.classes, 0) for split in self.folders}
        groups = self.files.group_by(["split", "label"]).aggregate([("path", "count")])
        for row in groups.to_pylist():
            counts[row["split"]][row["label"]] = row["path_count"]
        return counts

    def fingerprint(self) -> str:
        """Changes with any file's split, label, path, size or time."""
        fingerprint = Fingerprint()
        for batch in self.files.to_batches():
            for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                fingerprint.add(*row)
        return fingerprint.hexdigest()


def list_split_folders(root: str, folders: dict[str, str]) -> Listing:
    """List ``<root>/<folder>/<label>/…/<file>`` for each split's folder.

    Raises:
        InputError: a folder is missing or holds no classes or no images, a class folder of train
            is empty, a link leaves the folder, or a split has a class that train lacks.
    """
    _require_folder(root)
    ignored: list[str] = []
    tables = []
    for split, folder in folders.items():
        path = os.path.join(root, folder)
        if not os.path.isdir(path):
            raise InputError(
                f"the folder of split {split!r} is missing: {path}. {root} holds "
                f"{_names(_subfolders(root)) or 'no folders'}. Name the split's folder under `splits`, such as "
                "`splits: {val: valid}`, or cut one folder of classes into splits with "
                "`splits: {fractions: {train: 0.7, val: 0.15, test: 0.15}}`."
            )
        tables.append(_list_classes(root, path, split, ignored))
    return _checked(Listing(root, folders, _sorted(tables), _classes_of_train(tables[0]), ignored))


def list_unsplit_folder(root: str, fractions: dict[str, float]) -> Listing:
    """List ``<root>/<label>/…/<file>`` and assign each file to a split by its path.

    The fractions hold for each class in expectation, so that a class of few images may be missing in
    val or test; adding images moves none of the others.

    Raises:
        InputError: as in :func:`list_split_folders`, or a class came out empty in train.
    """
    _require_folder(root)
    ignored: list[str] = []
    table = _list_classes(root, root, "", ignored)
    splits = pa.array(assign_splits(table["path"].to_pylist(), fractions), pa.string())
    table = table.set_column(0, LISTING_SCHEMA.field("split"), splits)
    classes = sorted(set(table["label"].to_pylist()))
    listing = Listing(root, dict.fromkeys(fractions, ""), _sorted([table]), classes, ignored)
    if empty := [label for label, count in listing.counts()["train"].items() if not count]:
        raise InputError(
            f"cutting {root} by fractions leaves the training split without images of {_names(empty)}. Add images to "
            "these classes, raise the fraction of train, or make the splits by hand as folders."
        )
    return _checked(listing)


def store_listing(listing: Listing, uri: str) -> tuple[int, str]:
    """Keep the listing as a Lance dataset; returns its version, new only if it changed, and fingerprint.

    Raises:
        InputError: the dataset cannot be written.
    """
    fingerprint = listing.fingerprint()
    if table_exists(uri):
        kept = open_table(uri)
        if read_facts(kept).get("fingerprint") == fingerprint:
            return kept.version, fingerprint
    facts = {"fingerprint": fingerprint, "root": listing.root, "classes": listing.classes}
    return commit_table(uri, LISTING_SCHEMA, listing.files.to_batches(), lambda: facts).version, fingerprint


def files_of_split(uri: str, version: int, split: str) -> pa.Table:
    """One split's files of a stored listing, as a table of LISTING_SCHEMA.

    Raises:
        InputError: no such listing is at ``uri``.
    """
    return open_table(uri, version).to_table(filter=f"split = '{split}'")


def _checked(listing: Listing) -> Listing:
    for split, labels in listing.counts().items():
        if unknown := [label for label in labels if label not in listing.classes]:
            raise InputError(
                f"split {split!r} in {listing.root} has classes that train lacks: {_names(unknown)}. "
                f"train has {_names(listing.classes)}. Rename or remove them, or add them to train."
            )
    if len(listing.classes) < 2:
        raise InputError(
            f"{listing.root} has one class only, {_names(listing.classes)}; a classifier needs at least two. "
            "Expected <split>/<label>/<file>."
        )
    return listing


def _classes_of_train(train: pa.Table) -> list[str]:
    return sorted(set(train["label"].to_pylist()))


def _sorted(tables: list[pa.Table]) -> pa.Table:
    table = pa.concat_tables(tables).combine_chunks()
    return table.sort_by([("split", "ascending"), ("label", "ascending"), ("path", "ascending")])


def _list_classes(root: str, folder: str, split: str, ignored: list[str]) -> pa.Table:
    """The files of each class folder below ``folder``, as a table of LISTING_SCHEMA."""
    where = f"split {split!r} ({folder})" if split else folder
    tables = []
    for entry in _entries(os.fsencode(folder), ignored, os.fsencode(root)):
        if not entry.is_dir(follow_symlinks=False):
            _refuse_link(entry, root)
            ignored.append(escape_name(os.path.relpath(entry.path, os.fsencode(root))))
            continue
        tables.append(_list_class(root, folder, split, entry, ignored))
    if not tables:
        raise InputError(f"{where} has no class folders. Expected one folder for each class, with its images inside.")
    table = pa.concat_tables(tables)
    if not table.num_rows:
        raise InputError(f"{where} has class folders but no images in them. Add images, or correct the path.")
    return table


def _list_class(root: str, folder: str, split: str, entry: os.DirEntry[bytes], ignored: list[str]) -> pa.Table:
    try:
        label = entry.name.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"the class folder {entry.path!r} has a name that is not UTF-8. Rename it.") from error
    paths, sizes, times = [], [], []
    base = os.fsencode(folder)
    for file in _walk(entry.path, root, ignored):
        stat = _stat(file)
        paths.append(escape_name(os.path.relpath(file.path, base)))
        sizes.append(stat.st_size)
        times.append(stat.st_mtime_ns)
    if not paths and split == "train":
        raise InputError(f"the class folder {os.fsdecode(entry.path)} is empty. Add images to it, or remove it.")
    columns = [[split] * len(paths), [label] * len(paths), paths, sizes, times]
    arrays = [pa.array(c, f.type) for c, f in zip(columns, LISTING_SCHEMA, strict=True)]
    return pa.table(arrays, schema=LISTING_SCHEMA)


def _walk(folder: bytes, root: str, ignored: list[str]) -> Iterator[os.DirEntry[bytes]]:
    """All files below ``folder``; linked folders are refused, for they could lead round in circles."""
    for entry in _entries(folder, ignored, os.fsencode(root)):
        _refuse_link(entry, root)
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(entry.path, root, ignored)
        elif entry.is_file(follow_symlinks=False) or os.path.isfile(entry.path):
            yield entry
        else:
            raise InputError(
                f"{_shown(entry.path)} is neither a file nor a folder: a link that leads nowhere, or a pipe or device. "
                "Remove it."
            )


def _entries(folder: bytes, ignored: list[str], root: bytes) -> Iterator[os.DirEntry[bytes]]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(b".") or entry.name.lower() in _LITTER:
                    ignored.append(escape_name(os.path.relpath(entry.path, root)))
                else:
                    yield entry
    except OSError as error:
        raise InputError(
            f"the folder {_shown(folder)} cannot be read: {error.strerror}. Give yourself the right to read it."
        ) from error


def _stat(file: os.DirEntry[bytes]) -> os.stat_result:
    try:
        return file.stat()
    except OSError as error:
        raise InputError(
            f"{_shown(file.path)} cannot be read: {error.strerror}. If the folder was changing, try again."
        ) from error


def _refuse_link(entry: os.DirEntry[bytes], root: str) -> None:
    if not entry.is_symlink():
        return
    target = os.path.realpath(entry.path)
    if os.path.isdir(target):
        raise InputError(f"{_shown(entry.path)} is a link to a folder; put the folder itself there.")
    if not target.startswith(os.path.join(os.fsencode(os.path.realpath(root)), b"")):
        raise InputError(
            f"{_shown(entry.path)} is a link that leaves the dataset's folder, to "
            f"{_shown(target)}. Put a copy of the file there."
        )


def _require_folder(root: str) -> None:
    if not os.path.isdir(root):
        parent = Path(root).parent
        there = (
            f"{parent} holds {_names(_subfolders(str(parent))) or 'no folders'}"
            if parent.is_dir()
            else f"{parent} is missing too"
        )
        raise InputError(
            f"the folder {root} is missing; {there}. Set `source: {{folder: …}}` to a folder of "
            "<split>/<label>/<file>, or put the images there."
        )


def _subfolders(folder: str) -> list[str]:
    return sorted(e.name for e in os.scandir(folder) if e.is_dir() and not e.name.startswith("."))


def _shown(path: bytes) -> str:
    """The path as text for people, also where its bytes are not UTF-8."""
    return path.decode("utf-8", "backslashreplace")


def _names(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:_EXAMPLES])
    return shown if len(names) <= _EXAMPLES else f"{shown} and {len(names) - _EXAMPLES} more"
