"""The cost of checking images against their digests in a loader.

``python -m benchmarks.verification --write docs/benchmarks.md``
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable

from benchmarks.corpus import JPEG, PNG, make_corpus
from benchmarks.loading.cases import BATCH, CASES, MEAN, SCALE, STD
from benchmarks.options import add_rounds, parser_of
from benchmarks.report import replace_section, spread_text
from benchmarks.results import spread_of, today, typed
from lance_pipeline.images import Augment, CachePlace, ImageLoader, ingest_split
from lance_pipeline.loader.cache_digests import BlockDigests
from lance_pipeline.loader.row_metadata import StoredImages
from lance_pipeline.process_settings import speed_up_process

# The maximum cost of each, as a share of an epoch.
_TARGETS = {"PNG of 32x32, streamed": 0.03, "JPEG of 500x375, streamed": 0.03, "PNG of 32x32, cached": 0.05}
_Epoch = Callable[[int], float]


def main() -> None:
    """Measure, print the table, and write it to the page where asked to."""
    speed_up_process()
    options = _parse()
    seconds: dict[str, list[tuple[float, float]]] = {}
    os.makedirs(options.folder, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as work:
        for kind in (PNG, JPEG):
            uri = os.path.join(work, f"{kind.name}.lance")
            root = make_corpus(options.folder, kind, getattr(options, kind.name))
            ingest_split(root, "train", uri)
            checked, unchecked = _streaming(uri, kind.name)
            seconds[f"{kind.title}, streamed"] = _rounds(checked, unchecked, options.rounds)
        place = CachePlace(os.path.join(work, "cache"))
        uri = os.path.join(work, "png.lance")
        for _ in _opened(uri, place):
            pass
        seconds["PNG of 32x32, cached"] = _rounds(
            lambda number: _cached(uri, place, number, checked=True),
            lambda number: _cached(uri, place, number, checked=False),
            4 * options.rounds,
        )
    text = _section(options, seconds)
    print(text)
    if options.write:
        replace_section(options.write, text, "verification")


def _rounds(checked: _Epoch, unchecked: _Epoch, rounds: int) -> list[tuple[float, float]]:
    """Seconds of an epoch of both in each round, after a warm-up epoch; their order alternates."""
    both, taken = (checked, unchecked), []
    for epoch in both:
        epoch(0)
    for number in range(1, rounds + 1):
        order = both[:: 1 if number % 2 else -1]
        times = {epoch: epoch(number) for epoch in order}
        taken.append((times[checked], times[unchecked]))
        print(f"round {number} of {rounds}: {taken[-1][0]:.3f} s, {taken[-1][1]:.3f} s", file=sys.stderr, flush=True)
    return taken


def _streaming(uri: str, name: str) -> tuple[_Epoch, _Epoch]:
    """An epoch with the check, and one without."""
    case = CASES[name]

    def loader() -> ImageLoader:
        return ImageLoader(
            uri,
            batch_size=BATCH,
            image_size=case.size,
            training=True,
            augment=Augment(flip=True, padding=0, resized_crop=SCALE if case.crop else None),
            normalize=(MEAN, STD),
            cache=None,
        )

    checked, unchecked = loader(), loader()
    unchecked._stored = StoredImages(unchecked.split, None)  # noqa: SLF001 -- users cannot turn it off
    return lambda number: _timed(checked, number), lambda number: _timed(unchecked, number)


def _opened(uri: str, place: CachePlace) -> ImageLoader:
    return ImageLoader(
        uri,
        batch_size=BATCH,
        image_size=CASES["png"].size,
        training=True,
        augment=Augment(flip=True),
        normalize=(MEAN, STD),
        cache=place,
    )


def _cached(uri: str, place: CachePlace, number: int, *, checked: bool) -> float:
    """The first epoch of a newly opened loader, in which the cache is checked."""
    loader = _opened(uri, place)
    cache = loader._cache  # noqa: SLF001 -- users cannot turn it off
    if cache is None or not isinstance(cache._digests, BlockDigests):  # noqa: SLF001
        raise RuntimeError(f"it has not cached: {loader.mode}")
    cache._digests._unchecked = checked  # noqa: SLF001
    return _timed(loader, number)


def _timed(loader: ImageLoader, number: int) -> float:
    loader.set_epoch(number)
    began = time.perf_counter()
    for _ in loader:
        pass
    return time.perf_counter() - began


def _section(options: argparse.Namespace, seconds: dict[str, list[tuple[float, float]]]) -> str:
    lines = ["| epoch | with, seconds | without, seconds | with / without | allowed | |", "|---|--:|--:|--:|--:|---|"]
    for name, taken in seconds.items():
        spreads = [spread_of(values) for values in zip(*taken, strict=True)]
        ratio = spread_of(checked / unchecked for checked, unchecked in taken)
        if ratio:
            cells = [spread_text(spread, "{:.3f}") for spread in spreads if spread]
            met = "met" if ratio.median <= 1 + _TARGETS[name] else "**missed**"
            lines.append(
                f"| {name} | {' | '.join(cells)} | {spread_text(ratio, '{:.3f}')} | {1 + _TARGETS[name]} | {met} |"
            )
    table = "\n".join(lines)
    return f"""## What verification costs

`{typed("verification")}`

{today()}: epochs of {options.png:,} PNG and {options.jpeg:,} JPEG with {os.cpu_count()} cores, in turn with and without
comparing what is read with its digest, {options.rounds} rounds ({4 * options.rounds} of the cache). A cache is checked
in the first epoch after it is opened, which is the one that is measured, mostly by a thread of its own; later epochs
cost nothing. The median is given with the least and the greatest; the ratio is taken within a round.

{table}
"""


def _parse() -> argparse.Namespace:
    parser = parser_of("verification", "What comparing images with their digests costs.", {PNG: 20_000, JPEG: 1_000})
    add_rounds(parser)
    return parser.parse_args()


if __name__ == "__main__":
    main()
