"""Loaders that stream shards in their own order; they also decode with Pillow, one image at a time."""

import os
from collections.abc import Iterator
from typing import Any

from benchmarks.contestants import Clock, litdata, mosaicml, read_bytes, walk_numbered
from benchmarks.loading.cases import (
    BATCH,
    WORKERS,
    Batch,
    Case,
    Epochs,
    Opener,
    Places,
    opened_rgb,
    torch_loader,
    torchvision_transform,
)

_ROWS = 1024


def prepare_mosaicml(case: Case, root: str, out: str) -> None:
    """Write MDS shards."""
    del case
    mosaicml(root, out, Clock())


def mosaicml_loader(case: Case, places: Places) -> Opener:
    """MosaicML Streaming: local shards, without copies."""
    from streaming import StreamingDataset  # pyright: ignore[reportMissingImports]
    from streaming.base.util import clean_stale_shared_memory  # pyright: ignore[reportMissingImports]

    transform = torchvision_transform(case)

    class Images(StreamingDataset):
        """Decodes images on access."""

        def __getitem__(self, at: int) -> tuple[Any, int]:
            row = super().__getitem__(at)
            return transform(opened_rgb(row["image"])), row["label"]

    # Removes what an earlier, killed run left.
    clean_stale_shared_memory()
    return lambda: torch_loader(Images(local=places.data, shuffle=True, batch_size=BATCH), WORKERS)


def prepare_litdata(case: Case, root: str, out: str) -> None:
    """Write LitData's chunks."""
    del case
    litdata(root, out, Clock())


def litdata_loader(case: Case, places: Places) -> Opener:
    """LitData: local chunks."""
    from litdata import StreamingDataLoader, StreamingDataset  # pyright: ignore[reportMissingImports]

    transform = torchvision_transform(case)

    def transformed(row: dict[str, Any]) -> tuple[Any, int]:
        return transform(opened_rgb(row["image"])), row["label"]

    def start() -> Epochs:
        rows = StreamingDataset(places.data, shuffle=True, drop_last=False, transform=transformed)
        loader = StreamingDataLoader(rows, batch_size=BATCH, num_workers=WORKERS, persistent_workers=True)
        return lambda _: loader

    return start


def prepare_lancedb(case: Case, root: str, out: str) -> None:
    """Write a LanceDB table of the files and their classes."""
    import lancedb  # pyright: ignore[reportMissingImports]
    import pyarrow as pa

    del case
    schema = pa.schema([("image", pa.binary()), ("label", pa.int64())])
    files = list(walk_numbered(root))

    def batches() -> Iterator[pa.RecordBatch]:
        for start in range(0, len(files), _ROWS):
            part = files[start : start + _ROWS]
            images, labels = [read_bytes(path) for _, path in part], [index for index, _ in part]
            yield pa.record_batch([pa.array(images, pa.binary()), pa.array(labels, pa.int64())], schema=schema)

    lancedb.connect(out).create_table("images", pa.RecordBatchReader.from_batches(schema, batches()))


def lancedb_loader(case: Case, places: Places) -> Opener:
    """LanceDB's streaming dataset, which decodes on its own threads and needs no workers."""
    import lancedb  # pyright: ignore[reportMissingImports]
    from lancedb.streaming import StreamingDataset  # pyright: ignore[reportMissingImports]

    transform = torchvision_transform(case)

    def transformed(rows: Any) -> list[tuple[Any, int]]:
        images = [transform(opened_rgb(image.as_py())) for image in rows["image"]]
        return list(zip(images, rows["label"].to_pylist(), strict=True))

    def start() -> Epochs:
        table = lancedb.connect(places.data).open_table("images")

        def epoch(number: int) -> Iterator[Batch]:
            # The order of an epoch is fixed when the dataset is created.
            rows = StreamingDataset(
                table,
                epoch=number,
                columns=["image", "label"],
                read_batch_size=BATCH,
                transform=transformed,
                transform_parallelism=os.cpu_count(),
                transform_queue_depth=4,
            )
            yield from torch_loader(rows, 0)(number)

        return epoch

    return start
