"""Measures how long an image holds the GIL, which limits the speed of many threads.

``python -m benchmarks.gil --help`` lists the options.
"""

import argparse
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any, NamedTuple
from unittest.mock import patch

import cv2
import numpy as np
import simplejpeg
import torch

from benchmarks.corpus import JPEG, PNG, Kind, make_corpus
from benchmarks.loading.cases import CASES, Places
from benchmarks.loading.own import loader, prepare
from benchmarks.measure import empty_folder
from benchmarks.options import add_rounds, parser_of
from lance_pipeline.storage.row_addresses import RowAddresses

_THREADS = (1, 2, 4, 8, 16)
_CALIBRATIONS = 2_000
_DOT = np.zeros((1, 1, 3), np.uint8)
_DOT_JPEG, _NO_IMAGE = simplejpeg.encode_jpeg(_DOT), np.zeros(32, np.uint8)
_NUMBER = torch.zeros(1)


class Unlocked(NamedTuple):
    """A call that releases the GIL during its work.

    Attributes:
        owner: the module or class that has the function.
        name: the name of the attribute.
        least: calls it with almost no work; that time counts as holding the GIL. None if calls are few.
    """

    owner: Any
    name: str
    least: Callable[[], object] | None = None


_UNLOCKED = (
    Unlocked(simplejpeg, "decode_jpeg", lambda: simplejpeg.decode_jpeg(_DOT_JPEG)),
    Unlocked(cv2, "imdecode", lambda: cv2.imdecode(_NO_IMAGE, cv2.IMREAD_COLOR_RGB)),
    Unlocked(cv2, "resize", lambda: cv2.resize(_DOT, (1, 1))),
    Unlocked(cv2, "flip", lambda: cv2.flip(_DOT, 1)),
    Unlocked(np, "copyto", lambda: np.copyto(_DOT, _DOT)),
    Unlocked(np, "take", lambda: np.take(_DOT, np.zeros(1, np.int64), axis=0)),
    Unlocked(torch, "addcmul", lambda: torch.addcmul(_NUMBER, _NUMBER, _NUMBER, out=_NUMBER)),
    Unlocked(torch.Tensor, "copy_", lambda: _NUMBER.copy_(_NUMBER)),
    Unlocked(RowAddresses, "take"),
)


class Spent(NamedTuple):
    """Processor time of one image, in seconds: in total, and with the GIL held."""

    total: float
    locked: float

    def per_second(self, threads: int) -> float:
        """The upper bound on images per second if each thread has a core and all share the GIL."""
        return min(threads / self.total, 1 / self.locked)


def main() -> None:
    """Measure and print the table."""
    options = _parse()
    folder = os.path.abspath(options.folder)
    found: dict[str, list[Spent]] = {}
    work = os.path.join(folder, "gil_work")
    with empty_folder(work):
        cases = {
            "JPEG to 224, streamed": _epochs(folder, work, JPEG, options.jpeg, cached=False),
            "PNG of 32, streamed": _epochs(folder, work, PNG, options.png, cached=False),
            "PNG of 32, cached": _epochs(folder, work, PNG, options.png, cached=True),
        }
        for _ in range(options.rounds):
            for title, epoch in cases.items():
                found.setdefault(title, []).append(_spent(epoch))
                print(f"{title}: {found[title][-1]}", file=sys.stderr, flush=True)
    print(_table({title: _median(spent) for title, spent in found.items()}))


def _epochs(folder: str, work: str, kind: Kind, count: int, *, cached: bool) -> Callable[[], Iterator[Any]]:
    """Returns a function that gives the batches of the next epoch, with one thread, after a warm-up epoch."""
    root, data = make_corpus(folder, kind, count), os.path.join(work, kind.name)
    case = CASES[kind.name]
    if not os.path.exists(data):
        prepare(case, root, data)
    numbered = loader(case, Places(root, data, os.path.join(work, "cache")), cached=cached, threads=1)()
    for _ in numbered(0):
        pass
    numbers = iter(range(1, sys.maxsize))
    return lambda: iter(numbered(next(numbers)))


def _spent(epoch: Callable[[], Iterator[Any]]) -> Spent:
    """Measure an epoch from its second batch: the time of Python's threads minus that of calls that release the GIL."""
    total, images = -time.process_time(), 0
    for _, labels in epoch():
        images += len(labels)
    total += time.process_time()
    with _timed_calls() as calls:
        batches, counted = epoch(), 0
        next(batches)
        before, called = _python_seconds(), dict(calls)
        after, until = before, called
        for _, labels in batches:
            counted += len(labels)
            # The threads end with the last batch.
            after, until = _python_seconds(), dict(calls)
    python = sum(seconds - before.get(thread, 0.0) for thread, seconds in after.items())
    unlocked = sum(seconds - called[name] for name, seconds in until.items())
    return Spent(total / images, (python - unlocked) / counted)


def _python_seconds() -> dict[int, float]:
    """The processor time of each Python thread."""
    return {
        thread.ident: time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
        for thread in threading.enumerate()
        if thread.ident is not None
    }


@contextmanager
def _timed_calls() -> Iterator[dict[str, float]]:
    """A context that sums, for each call, the seconds without the GIL and those that the measurement takes."""
    seconds = dict.fromkeys((call.name for call in _UNLOCKED), 0.0)
    measuring = _measuring()
    with ExitStack() as stack:
        for call in _UNLOCKED:
            locked = 0.0 if call.least is None else _seconds_of(call.least) - _seconds_of(_nothing)
            timed = _timed(seconds, call.name, measuring - locked, getattr(call.owner, call.name))
            stack.enter_context(patch.object(call.owner, call.name, timed))
        yield seconds


def _measuring() -> float:
    """The overhead of timing a call, without the part that is already counted as the call's."""
    seconds = {"nothing": 0.0}
    began = time.thread_time()
    timed = _timed(seconds, "nothing", 0.0, _nothing)
    for _ in range(_CALIBRATIONS):
        timed()
    return (time.thread_time() - began - seconds["nothing"]) / _CALIBRATIONS


def _timed(seconds: dict[str, float], name: str, more: float, call: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(call)
    def timed(*args: Any, **kwargs: Any) -> Any:
        began = time.thread_time()
        try:
            return call(*args, **kwargs)
        finally:
            seconds[name] += time.thread_time() - began + more

    return timed


def _nothing() -> None:
    pass


def _seconds_of(call: Callable[[], object]) -> float:
    """The processor time of one call, the minimum of several tries."""
    tries = []
    for _ in range(5):
        began = time.thread_time()
        for _ in range(_CALIBRATIONS):
            call()
        tries.append((time.thread_time() - began) / _CALIBRATIONS)
    return min(tries)


def _median(spent: list[Spent]) -> Spent:
    return Spent(*(statistics.median(values) for values in zip(*spent, strict=True)))


def _table(cases: dict[str, Spent]) -> str:
    lines = [
        "| | processor time of an image | of it with Python's lock |" + "".join(f" {n} threads |" for n in _THREADS),
        "|---|" + "---:|" * (2 + len(_THREADS)),
    ]
    for title, spent in cases.items():
        speeds = "".join(
            f" {spent.per_second(n):,.0f}/s ({spent.per_second(n) / spent.per_second(1):.1f}x) |" for n in _THREADS
        )
        lines.append(f"| {title} | {spent.total * 1e6:,.1f} µs | {spent.locked * 1e6:,.1f} µs |{speeds}")
    return "\n".join(lines)


def _parse() -> argparse.Namespace:
    parser = parser_of("gil", "How long an image holds Python's lock.", {PNG: 8_000, JPEG: 1_000})
    add_rounds(parser)
    return parser.parse_args()


if __name__ == "__main__":
    main()
