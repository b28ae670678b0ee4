"""Runs one loader in a separate process.

``python -m benchmarks.loading.child prepare NAME CASE ROOT OUT`` writes the loader's data;
``python -m benchmarks.loading.child load NAME CASE ROOT DATA OWN EPOCHS`` runs it: an epoch of warm-up, then EPOCHS
epochs. With 0 epochs it ends after the first batch. The last line printed has the measurements as JSON.
"""

import json
import sys
import time
import traceback
from collections.abc import Iterable

from benchmarks.loading.cases import CASES, Batch, Case, Places
from benchmarks.loading.contestants import CONTESTANTS
from benchmarks.measure import own_peak


class WrongBatchError(RuntimeError):
    """A loader yielded a wrong batch."""


def main(task: str, name: str, case: str, *rest: str) -> None:
    """Run ``prepare`` or ``load``."""
    if task == "prepare":
        _prepare(name, CASES[case], *rest)
    else:
        root, data, own, epochs = rest
        print("\n" + json.dumps(_load(name, CASES[case], Places(root, data, own), int(epochs))), flush=True)


def _prepare(name: str, case: Case, root: str, out: str) -> None:
    prepare = CONTESTANTS[name].prepare
    if prepare is not None:
        prepare(case, root, out)
    print("\n{}")


def _load(name: str, case: Case, places: Places, epochs: int) -> dict[str, object]:
    start = CONTESTANTS[name].open(case, places)
    began = time.perf_counter()
    numbered = start()
    batches = iter(numbered(0))
    batch = next(batches)
    first = time.perf_counter() - began
    _check(batch, case)
    images, times = len(batch[1]), []
    if epochs:
        images += _count(batches)
    for number in range(1, epochs + 1):
        began = time.perf_counter()
        seen = _count(numbered(number))
        times.append(time.perf_counter() - began)
        if seen != images:
            raise WrongBatchError(f"an epoch of {images} images was followed by one of {seen}")
    return {"images": images, "epochs": times, "first": first, "peak": own_peak()}


def _count(batches: Iterable[Batch]) -> int:
    return sum(len(labels) for _, labels in batches)


def _check(batch: Batch, case: Case) -> None:
    images, labels = batch
    if images is None:
        return
    facts = (tuple(images.shape[1:]), str(images.dtype), str(getattr(labels, "dtype", "")))
    if facts != ((3, case.size, case.size), "torch.float32", "torch.int64"):
        raise WrongBatchError(f"it gave images of {facts[0]} and {facts[1]}, labels of {facts[2]}")


def _reason(error: BaseException) -> str:
    """The original error, on one line."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except Exception as error:  # noqa: BLE001
        traceback.print_exc()
        sys.exit(_reason(error))
