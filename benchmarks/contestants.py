"""The contestants: our ingest, other tools that pack an image folder, and bounds that no tool can beat.

Each takes a corpus and a path to write to, does its work within the clock, and returns the number of images. The
libraries are imported in the functions, before the clock starts, because only the peers' environment has them.
"""

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

THREADS = os.cpu_count() or 1
_CHUNK = 16
_Item = TypeVar("_Item")


class Clock:
    """Sums the seconds spent within its context."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._start = 0.0

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *exception: object) -> None:
        self.seconds += time.perf_counter() - self._start


def ours(root: str, out: str, clock: Clock) -> int:
    """This project's ingest, with or without an existing dataset at ``out``."""
    from lance_pipeline.images import ingest_split
    from lance_pipeline.process_settings import speed_up_process

    speed_up_process()
    with clock:
        return ingest_split(root, "train", out).rows


def article(root: str, out: str, clock: Clock) -> int:
    """The method of the article that this project started from: each image is written as a batch of one row."""
    import lance
    import pyarrow as pa

    schema = pa.schema(
        [("image", pa.binary()), ("filename", pa.string()), ("label", pa.string()), ("split", pa.string())]
    )

    def batches() -> Iterator[pa.RecordBatch]:
        for label, path in _walk(root):
            values = [read_bytes(path), os.path.basename(path), label, "train"]
            yield pa.record_batch([pa.array([value]) for value in values], schema=schema)

    with clock:
        lance.write_dataset(pa.RecordBatchReader.from_batches(schema, batches()), out)
    return lance.dataset(out).count_rows()


def hugging_face(root: str, out: str, clock: Clock) -> int:
    """Hugging Face datasets: Arrow files. An exact file pattern makes the listing three times as fast."""
    import datasets  # pyright: ignore[reportMissingImports]

    files = {"train": os.path.join(root, "train", "*", "*")}
    with clock:
        loaded = datasets.load_dataset(
            "imagefolder", data_files=files, split="train", cache_dir=f"{out}.cache", drop_labels=False
        )
        loaded.save_to_disk(out)
    return len(loaded)


def webdataset(root: str, out: str, clock: Clock) -> int:
    """WebDataset: tar files."""
    from webdataset import ShardWriter  # pyright: ignore[reportMissingImports]

    os.makedirs(out)
    with clock, ShardWriter(os.path.join(out, "%06d.tar"), verbose=0) as writer:
        count = 0
        for count, (index, path) in enumerate(walk_numbered(root), 1):  # noqa: B007
            stem, suffix = os.path.splitext(os.path.basename(path))
            writer.write({"__key__": stem, suffix[1:]: read_bytes(path), "cls": index})
    return count


def mosaicml(root: str, out: str, clock: Clock) -> int:
    """MosaicML Streaming: MDS shards."""
    from streaming import MDSWriter  # pyright: ignore[reportMissingImports]

    with clock, MDSWriter(out=out, columns={"image": "bytes", "label": "int"}) as writer:
        count = 0
        for count, (index, path) in enumerate(walk_numbered(root), 1):  # noqa: B007
            writer.write({"image": read_bytes(path), "label": index})
    return count


def litdata(root: str, out: str, clock: Clock) -> int:
    """LitData: chunks, written by forked workers, which start five times as fast as the default."""
    from litdata import optimize  # pyright: ignore[reportMissingImports]

    with clock:
        items = list(walk_numbered(root))
        optimize(_litdata_row, items, out, chunk_bytes="64MB", num_workers=THREADS, start_method="fork", verbose=False)
    return len(items)


def read(root: str, out: str, clock: Clock) -> int:
    """Bound: read the bytes of every file."""
    del out
    with clock, ThreadPoolExecutor(THREADS) as pool:
        return sum(pool.map(_read_chunk, _cut([path for _, path in _walk(root)])))


def listing(root: str, out: str, clock: Clock) -> int:
    """Bound: list the size and mtime of every file."""
    del out
    with clock:
        times = [
            (entry.stat().st_size, entry.stat().st_mtime_ns)
            for label in os.scandir(os.path.join(root, "train"))
            for entry in os.scandir(label.path)
        ]
    return len(times)


def decode(root: str, out: str, clock: Clock) -> int:
    """Bound: decode every file from memory with our decoder."""
    del out
    images = [read_bytes(path) for _, path in _walk(root)]
    with clock, ThreadPoolExecutor(THREADS) as pool:
        return sum(pool.map(_decode_chunk, _cut(images)))


CONTESTANTS: dict[str, Callable[[str, str, Clock], int]] = {
    "scratch": ours,
    "unchanged": ours,
    "changed": ours,
    "article": article,
    "datasets": hugging_face,
    "webdataset": webdataset,
    "mosaicml": mosaicml,
    "litdata": litdata,
    "read": read,
    "list": listing,
    "decode": decode,
}


def _walk(root: str) -> Iterator[tuple[str, str]]:
    """All files as (label, path)."""
    for label in os.scandir(os.path.join(root, "train")):
        for entry in os.scandir(label.path):
            yield label.name, entry.path


def walk_numbered(root: str) -> Iterator[tuple[int, str]]:
    """All files as (class index, path)."""
    classes = sorted(os.listdir(os.path.join(root, "train")))
    numbers = {label: number for number, label in enumerate(classes)}
    return ((numbers[label], path) for label, path in _walk(root))


def read_bytes(path: str) -> bytes:
    """The content of a file."""
    with open(path, "rb") as file:
        return file.read()


def _litdata_row(item: tuple[int, str]) -> dict[str, object]:
    return {"image": read_bytes(item[1]), "label": item[0]}


def _cut(items: list[_Item]) -> list[list[_Item]]:
    return [items[start : start + _CHUNK] for start in range(0, len(items), _CHUNK)]


def _read_chunk(paths: list[str]) -> int:
    return len([read_bytes(path) for path in paths])


def _decode_chunk(images: list[bytes]) -> int:
    from lance_pipeline.imaging.decoding import decode_image

    for data in images:
        decode_image(data)
    return len(images)
