"""Loaders, alone and feeding a bare step: ours, torchvision's image folder, and the article's.

``python -m benchmarks.gpu.feeding SOURCE ROOT URI CELL JOB`` prints images per second; CELL and JOB are JSON.
"""

import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

from benchmarks.corpus import JPEG, PNG
from benchmarks.gpu.bare import NoGraphError, Step, bare_step, synchronize, synthetic_batch
from benchmarks.gpu.part import Job
from benchmarks.gpu.sizes import Cell
from benchmarks.loading import plain
from benchmarks.loading.cases import MEAN, SCALE, STD, Case, Places
from lance_pipeline.images import Augment, CachePlace, ImageLoader
from lance_pipeline.process_settings import speed_up_process
from lance_pipeline.training.device import Device, choose_device, reproducible

FORKING = ("files", "article")
"""The sources with forked workers, which need a process without other threads."""
_WARM_UP = 3

Batch = tuple[torch.Tensor, torch.Tensor]


class NoBatchesError(RuntimeError):
    """A loader gave too few batches to measure it."""


def loader_of(
    uri: str, cell: Cell, way: str, device: Device, cache: CachePlace, threads: int | None = None
) -> ImageLoader:
    """Our training loader, ``cached`` or ``streamed``; the streamed one takes random crops of photos."""
    cached = way == "cached"
    crops = not cached and cell.size > PNG.height
    return ImageLoader(
        uri,
        batch_size=cell.batch,
        image_size=cell.size,
        training=True,
        augment=Augment(True, 0 if crops else cell.size // 8, SCALE if crops else None),
        normalize=(MEAN, STD),
        cache=cache if cached else None,
        threads=threads,
        device=device.torch_device,
    )


def load(loader: ImageLoader, seconds: float) -> dict[str, Any]:
    """Images per second loaded onto the device; also for the first epoch if that fills the cache."""
    facts: dict[str, Any] = {"mode": loader.mode}
    if loader.mode.startswith("streamed, and being cached"):
        began = time.perf_counter()
        images = sum(len(labels) for _, labels in loader)
        synchronize()
        facts |= {"first_epoch": images / (time.perf_counter() - began)}
    return facts | {"rate": _rate(_endless(loader), lambda images, labels: None, seconds)}


def feed(source: str, root: str, uri: str, cell: Cell, job: Job) -> float:
    """Images per second of the same bare step, with batches from the given source."""
    device, cache = choose_device(job.device), CachePlace(os.path.join(job.work, "cache"))
    kind = PNG if cell.size == PNG.height else JPEG
    case, places = Case(kind, cell.size, kind is JPEG), Places(root, uri, "")
    pin = device.torch_device.type == "cuda"
    settings = {"workers": job.sizes.workers, "batch_size": cell.batch, "pin_memory": pin}
    sources: dict[str, Callable[[], Iterator[Batch]]] = {
        "resident": lambda: itertools.repeat(synthetic_batch(cell, device)),
        "cached": lambda: _endless(loader_of(uri, cell, "cached", device, cache)),
        "streamed": lambda: _endless(loader_of(uri, cell, "streamed", device, cache)),
        "files": lambda: _moved(plain.image_folder(case, places, **settings)(), device),
        "article": lambda: _moved(plain.article_loader(case, places, **settings)(), device),
    }
    batches = sources[source]()
    # The workers are forked here, before the step starts other threads, which a fork would lose.
    first = next(batches)
    if len(first[1]) != cell.batch:
        raise NoBatchesError(f"{source} gave a batch of {len(first[1])} images, not of {cell.batch}")
    # A graph has a fixed batch size.
    whole = (batch for batch in itertools.chain([first], batches) if len(batch[1]) == cell.batch)
    with reproducible(deterministic=False):
        return _rate(whole, _fastest(cell, device), job.sizes.feeding)


def _fastest(cell: Cell, device: Device) -> Step:
    """A graph on CUDA, else eager mode."""
    with reproducible(deterministic=False):
        try:
            return bare_step(cell, device, "graph")
        except NoGraphError:
            return bare_step(cell, device, "eager")


def _endless(loader: ImageLoader) -> Iterator[Batch]:
    for number in itertools.count(1):
        loader.set_epoch(number)
        yield from loader


def _moved(epoch: Callable[[int], Iterable[Any]], device: Device) -> Iterator[Batch]:
    """The batches of a DataLoader's epochs, moved to the device."""
    for number in itertools.count():
        for images, labels in epoch(number):
            moved = images.to(device.torch_device, non_blocking=True, memory_format=torch.channels_last)
            yield moved, labels.to(device.torch_device, non_blocking=True)


def _rate(batches: Iterable[Batch], step: Step, seconds: float) -> float:
    """Images per second, measured for a number of seconds after some batches of warm-up."""
    iterator = iter(batches)
    for batch in itertools.islice(iterator, _WARM_UP):
        step(*batch)
    synchronize()
    began, images = time.perf_counter(), 0
    for batch in iterator:
        step(*batch)
        images += len(batch[1])
        if time.perf_counter() - began > seconds:
            break
    synchronize()
    if not images:
        raise NoBatchesError("it gave no batches")
    return images / (time.perf_counter() - began)


def main(source: str, root: str, uri: str, cell: str, job: str) -> None:
    """Measure one source in this process."""
    speed_up_process()
    print(feed(source, root, uri, Cell(**json.loads(cell)), Job(**json.loads(job))))


if __name__ == "__main__":
    main(*sys.argv[1:])
