"""Our loader, and the bounds: our decoding alone, from memory."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from benchmarks.contestants import read_bytes, walk_numbered
from benchmarks.loading.cases import BATCH, MEAN, SCALE, STD, WORKERS, Batch, Case, Epochs, Opener, Places


def prepare(case: Case, root: str, out: str) -> None:
    """Run this project's ingest."""
    from lance_pipeline.images import ingest_split

    del case
    ingest_split(root, "train", out)


def prepare_deleted(case: Case, root: str, out: str) -> None:
    """Run the ingest with every fourth row twice, then delete the second copies."""
    import lance
    import pyarrow as pa

    prepare(case, root, f"{out}.whole")
    whole = lance.dataset(f"{out}.whole").to_table()
    rows = np.sort(np.concatenate([np.arange(len(whole)), np.arange(0, len(whole), 4)]))
    again = pa.array(np.diff(rows, prepend=-1) == 0)
    lance.write_dataset(whole.take(pa.array(rows)).append_column("again", again), out).delete("again")


def loader(
    case: Case, places: Places, *, cached: bool, cache_size: int | None = None, threads: int | None = None
) -> Opener:
    """Our loader, with or without its cache."""
    from lance_pipeline.images import Augment, CachePlace, ImageLoader
    from lance_pipeline.process_settings import speed_up_process

    speed_up_process()

    def start() -> Epochs:
        images = ImageLoader(
            places.data,
            batch_size=BATCH,
            image_size=case.size,
            training=True,
            augment=Augment(flip=True, padding=0, resized_crop=SCALE if case.crop else None),
            normalize=(MEAN, STD),
            cache=CachePlace(folder=places.own) if cached else None,
            cache_size=cache_size,
            threads=threads,
        )

        def epoch(number: int) -> ImageLoader:
            # Otherwise a refused cache would be measured as a slow one.
            if cached and number and not images.mode.startswith("cached"):
                raise RuntimeError(f"it has not cached: {images.mode}")
            images.set_epoch(number)
            return images

        return epoch

    return start


def kernel(case: Case, places: Places) -> Opener:
    """Bound: only decode, crop and resize."""
    from lance_pipeline.loader.augmentation import Augment, key_of
    from lance_pipeline.loader.views import random_crop
    from lance_pipeline.process_settings import speed_up_process

    speed_up_process()

    images = _contents(places)

    def epoch(number: int) -> Iterator[Batch]:
        draws = Augment(resized_crop=SCALE).draw(key_of(0, number), np.arange(len(images)))

        def cropped(rows: range) -> int:
            for row in rows:
                random_crop(images[row], draws.crop[row], SCALE, case.size)
            return len(rows)

        return _on_threads(cropped, len(images))

    return lambda: epoch


def decode(case: Case, places: Places) -> Opener:
    """Bound: only decode whole images."""
    from lance_pipeline.imaging.decoding import decode_image
    from lance_pipeline.process_settings import speed_up_process

    speed_up_process()

    del case
    images = _contents(places)

    def decoded(rows: range) -> int:
        for row in rows:
            decode_image(images[row])
        return len(rows)

    return lambda: lambda _: _on_threads(decoded, len(images))


def idle(case: Case, places: Places) -> Opener:
    """An idle process that has imported torch, for its memory."""
    import torch

    del case, places, torch
    return lambda: lambda _: iter([(None, range(BATCH))])


def _contents(places: Places) -> list[bytes]:
    return [read_bytes(path) for _, path in walk_numbered(places.root)]


def _on_threads(work: Callable[[range], int], count: int) -> Iterator[Batch]:
    """Process batches of rows on as many threads as the loaders have workers."""
    parts = [range(start, min(start + BATCH // 4, count)) for start in range(0, count, BATCH // 4)]
    with ThreadPoolExecutor(WORKERS) as pool:
        yield from ((None, range(done)) for done in pool.map(work, parts))
