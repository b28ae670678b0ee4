"""A folder of images to a Lance dataset."""

import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import lance
import PIL
import pyarrow as pa

from lance_pipeline.errors import InputError
from lance_pipeline.images.channels import ChannelSums, IntTriple
from lance_pipeline.images.decoding import UndecodableImageError, decode_rgb, sums_of_image
from lance_pipeline.images.fingerprint import Fingerprint
from lance_pipeline.images.listing import list_split_folders
from lance_pipeline.images.names import join_escaped, unescape_name
from lance_pipeline.images.table import Facts, commit_table, open_table, read_facts, table_exists

# Raised when the same files would make other rows than before.
INGEST_VERSION = "1"

_SUMS = pa.list_(pa.int64(), 3)
_COLUMNS: list[tuple[str, pa.DataType, str]] = [
    ("image", pa.binary(), "The file's bytes, unchanged"),
    ("filename", pa.string(), "The file's name"),
    ("label", pa.string(), "The class: the name of the class folder"),
    ("split", pa.string(), "train, val or test"),
    ("path", pa.string(), "Below the split's folder, unique; % is %25, a byte that is not UTF-8 is %XX"),
    ("width", pa.int32(), "In pixels, upright by the EXIF orientation"),
    ("height", pa.int32(), "In pixels, upright by the EXIF orientation"),
    ("sha256", pa.binary(32), "Digest of the file's bytes"),
    ("channel_sum", _SUMS, "Sum over the pixels of red, green and blue, each 0 to 255"),
    ("channel_square_sum", _SUMS, "Sum of the squares of the same"),
]
SPLIT_SCHEMA = pa.schema(
    [pa.field(name, kind, nullable=False, metadata={"description": text}) for name, kind, text in _COLUMNS]
)
# A batch ends at whichever comes first: enough rows to write fast, or enough bytes to hold.
_BATCH_ROWS = 2048
_BATCH_BYTES = 64 << 20
_EXAMPLES = 5


@dataclass(frozen=True)
class IngestReport:
    """What an ingest did and what the split now holds.

    Attributes:
        uri: the Lance dataset.
        version: its version, a new one only where the content changed.
        rows, rejected: images in the dataset, and files that could not become rows.
        added, removed: rows that this ingest wrote anew and rows that it took out; a changed file
            counts as both.
        fingerprint: of all (path, label, bytes), whatever their order.
        counts: images per label, in the order of the class indices.
        channels: exact sums over all pixels.
    """

    uri: str
    version: int
    rows: int
    rejected: int
    added: int
    removed: int
    fingerprint: str
    counts: dict[str, int]
    channels: ChannelSums


@dataclass(frozen=True)
class _Image:
    """One decoded row, short of what the listing knows."""

    data: bytes
    width: int
    height: int
    digest: bytes
    total: IntTriple
    squares: IntTriple


def ingest_split(
    root: str,
    split: str,
    uri: str,
    *,
    folder: str | None = None,
    files: pa.Table | None = None,
    classes: list[str] | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> IngestReport:
    """Bring the Lance dataset at ``uri`` in line with the images of one split.

    Rows are stored in the order of a hash of their path, so that any stretch of them is a fair
    sample. The file's bytes are kept unchanged; each is decoded once, to prove that it can be.

    Args:
        root: the dataset's folder.
        split: the split's name, written to the column of that name.
        uri: the Lance dataset to make or to renew.
        folder: the split's folder below ``root``; by default the split's name.
        files: the split's files as a table of ``listing.LISTING_SCHEMA``; listed when None.
        classes: the labels in the order of their class indices; the listed ones when None.
        on_progress: called with (rows done, rows in all) after each batch.

    Raises:
        InputError: files are missing or are not images (the message names them), or the dataset
            cannot be written. Nothing is committed then.
    """
    folder = split if folder is None else folder
    listed: pa.Table = list_split_folders(root, {split: folder}).files if files is None else files
    base = os.path.join(root, folder)
    classes = classes or sorted(set(listed["label"].to_pylist()))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        writer = _SplitWriter(base, split, classes, _in_order_of_path_hash(listed), pool, on_progress)
        dataset = open_table(uri) if table_exists(uri) else None
        before = _digests_by_path(dataset) if dataset else {}
        if dataset is None or _made_otherwise(dataset, classes) or writer.read_digests() != before:
            dataset = commit_table(uri, SPLIT_SCHEMA, writer.batches(), writer.facts)
    return _report(dataset, before, writer.digests)


class _SplitWriter:
    """Turns listed files into record batches, and counts what went by."""

    def __init__(
        self,
        base: str,
        split: str,
        classes: list[str],
        files: pa.Table,
        pool: ThreadPoolExecutor,
        on_progress: Callable[[int, int], None],
    ) -> None:
        self.digests: dict[str, bytes] = {}
        self._base, self._split, self._files = base, split, files
        self._pool, self._on_progress = pool, on_progress
        self._fingerprint = Fingerprint()
        self._counts = dict.fromkeys(classes, 0)
        self._channels = ChannelSums()
        self._bad: list[str] = []

    def read_digests(self) -> dict[str, bytes]:
        """The SHA-256 of every file's bytes by path, without decoding anything."""
        self.digests = {}
        for files in _cut(self._files):
            paths = files["path"].to_pylist()
            self.digests.update(zip(paths, self._pool.map(partial(_read_digest, self._base), paths), strict=True))
            self._on_progress(len(self.digests), len(self._files))
        return self.digests

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All files as batches of SPLIT_SCHEMA, a few of them in memory at a time."""
        self.digests = {}
        done = 0
        for files in _cut(self._files):
            batch = self._batch(files)
            # Once a file is bad nothing will be committed: go on only to find the others.
            if not self._bad:
                yield batch
            done += len(files)
            self._on_progress(done, len(self._files))

    def facts(self) -> Facts:
        """The dataset's facts, once all batches are written.

        Raises:
            InputError: some files could not be decoded.
        """
        if self._bad:
            shown = "\n  ".join(self._bad[:_EXAMPLES])
            message = (
                f"{len(self._bad)} of {len(self._files)} files of split {self._split!r} in {self._base} cannot be "
                f"read as images, so nothing was written:\n  {shown}\nRepair these files or move them away."
            )
            raise InputError(message, self._bad)
        return {
            "split": self._split,
            "classes": list(self._counts),
            "counts": self._counts,
            "fingerprint": self._fingerprint.hexdigest(),
            "channels": self._channels.model_dump(),
            "ingest_version": INGEST_VERSION,
            "decoder": f"pillow {PIL.__version__}",
        }

    def _batch(self, files: pa.Table) -> pa.RecordBatch:
        paths, labels = files["path"].to_pylist(), files["label"].to_pylist()
        rows = []
        for path, label, image in zip(
            paths, labels, self._pool.map(partial(_read_image, self._base), paths), strict=True
        ):
            if isinstance(image, str):
                self._bad.append(image)
                continue
            rows.append((path, label, image))
            self.digests[path] = image.digest
            self._counts[label] += 1
            self._fingerprint.add(path, label, image.digest)
            self._channels = self._channels.plus(image.width * image.height, image.total, image.squares)
        return _to_batch(self._split, rows)


def _to_batch(split: str, rows: list[tuple[str, str, _Image]]) -> pa.RecordBatch:
    names = [os.path.basename(unescape_name(path)).decode("utf-8", "backslashreplace") for path, _, _ in rows]
    columns = [
        [image.data for _, _, image in rows],
        names,
        [label for _, label, _ in rows],
        [split] * len(rows),
        [path for path, _, _ in rows],
        [image.width for _, _, image in rows],
        [image.height for _, _, image in rows],
        [image.digest for _, _, image in rows],
        [image.total for _, _, image in rows],
        [image.squares for _, _, image in rows],
    ]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, SPLIT_SCHEMA, strict=True)]
    return pa.record_batch(arrays, schema=SPLIT_SCHEMA)


def _read(base: str, path: str) -> bytes:
    try:
        with open(join_escaped(base, path), "rb") as file:
            return file.read()
    except OSError as error:
        raise InputError(
            f"cannot read {os.path.join(base, path)}: {error.strerror}. Give yourself the right to read it, "
            "or materialize raw_images again if the folder has changed."
        ) from error


def _read_digest(base: str, path: str) -> bytes:
    return hashlib.sha256(_read(base, path)).digest()


def _read_image(base: str, path: str) -> _Image | str:
    """The file's row, or what is wrong with it."""
    data = _read(base, path)
    try:
        image = decode_rgb(data)
    except UndecodableImageError as error:
        return f"{os.path.join(base, path)}: {error}"
    total, squares = sums_of_image(image)
    return _Image(data, image.width, image.height, hashlib.sha256(data).digest(), total, squares)


def _in_order_of_path_hash(files: pa.Table) -> pa.Table:
    keys = [hashlib.sha256(path.encode()).digest() for path in files["path"].to_pylist()]
    return files.take(sorted(range(len(keys)), key=keys.__getitem__))


def _cut(files: pa.Table) -> Iterator[pa.Table]:
    """The files in slices of at most _BATCH_ROWS rows and, one row at least, _BATCH_BYTES bytes."""
    start = size = 0
    for row, bytes_of_file in enumerate(files["size"].to_pylist()):
        if row > start and (row - start == _BATCH_ROWS or size + bytes_of_file > _BATCH_BYTES):
            yield files.slice(start, row - start)
            start, size = row, 0
        size += bytes_of_file
    yield files.slice(start)


def _digests_by_path(dataset: lance.LanceDataset) -> dict[str, bytes]:
    if not {"path", "sha256"} <= set(dataset.schema.names):
        raise InputError(
            f"{dataset.uri} holds a Lance dataset that was not made by an ingest. Choose another URI, or move it."
        )
    table = dataset.to_table(columns=["path", "sha256"])
    return dict(zip(table["path"].to_pylist(), table["sha256"].to_pylist(), strict=True))


def _made_otherwise(dataset: lance.LanceDataset, classes: list[str]) -> bool:
    facts = read_facts(dataset)
    return facts.get("classes") != classes or facts.get("ingest_version") != INGEST_VERSION


def _report(dataset: lance.LanceDataset, before: dict[str, bytes], now: dict[str, bytes]) -> IngestReport:
    facts = read_facts(dataset)
    return IngestReport(
        uri=dataset.uri,
        version=dataset.version,
        rows=dataset.count_rows(),
        rejected=0,
        added=len(now.items() - before.items()),
        removed=len(before.items() - now.items()),
        fingerprint=facts["fingerprint"],
        counts=facts["counts"],
        channels=ChannelSums.model_validate(facts["channels"]),
    )
