"""The article's comparison, done fairly: training from our dataset and from plain files, with a network for each.

``python -m benchmarks.article_race --write docs/benchmarks.md``
"""

import argparse
import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from benchmarks.corpus import CLASSES, PNG, make_corpus
from benchmarks.loading.cases import BATCH, CASES, MEAN, STD, WORKERS, torchvision_transform
from benchmarks.options import add_rounds, parser_of
from benchmarks.report import replace_section, spread_text
from benchmarks.results import spread_of, today, typed
from lance_pipeline.images import Augment, CachePlace, ImageLoader, ingest_split
from lance_pipeline.process_settings import speed_up_process
from lance_pipeline.training.model import build_network

_CASE = CASES["png"]
_SEED = 0
_TITLES = {"ours": "ours", "files": f"plain files, {WORKERS} workers"}

Batches = Iterable[tuple[torch.Tensor, torch.Tensor]]


@dataclass
class _Racer:
    """A loader with its own network; all networks start from the same weights."""

    epoch: Callable[[int], Batches]
    model: nn.Module
    optimizer: torch.optim.Optimizer

    @classmethod
    def of(cls, epoch: Callable[[int], Batches]) -> "_Racer":
        torch.manual_seed(_SEED)
        model = build_network("resnet34", CLASSES, "imagenet")
        return cls(epoch, model, torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9))

    def train(self, number: int, batches: int | None) -> float:
        """Train on ``batches`` batches of an epoch (all if None); returns the seconds."""
        self.model.train()
        began = time.perf_counter()
        for images, labels in itertools.islice(self.epoch(number), batches):
            self.optimizer.zero_grad()
            nn.functional.cross_entropy(self.model(images), labels).backward()
            self.optimizer.step()
        return time.perf_counter() - began


def race(root: str, work: str, rounds: int, batches: int | None) -> dict[str, list[float]]:
    """Seconds of each round, after two batches of warm-up; the order of the contestants alternates."""
    racers = {"ours": _Racer.of(_ours(root, work)), "files": _Racer.of(_files(root))}
    seconds: dict[str, list[float]] = {name: [] for name in racers}
    for racer in racers.values():
        racer.train(0, 2)
    for number in range(1, rounds + 1):
        for name in list(racers)[:: 1 if number % 2 else -1]:
            seconds[name].append(racers[name].train(number, batches))
            print(f"round {number} of {rounds}, {name}: {seconds[name][-1]:.2f} s", file=sys.stderr, flush=True)
    return seconds


def main() -> None:
    """Measure, print the table, and write it to the page where asked to."""
    speed_up_process()
    options = _parse()
    root = make_corpus(options.folder, PNG, options.png)
    with tempfile.TemporaryDirectory(dir=options.folder) as work:
        seconds = race(root, work, options.rounds, None if options.epoch else options.batches)
    text = _section(options, seconds)
    print(text)
    if options.write:
        replace_section(options.write, text, "article-race")


def _ours(root: str, work: str) -> Callable[[int], Batches]:
    uri = os.path.join(work, "train.lance")
    ingest_split(root, "train", uri)
    loader = ImageLoader(
        uri,
        batch_size=BATCH,
        image_size=_CASE.size,
        training=True,
        augment=Augment(flip=True),
        normalize=(MEAN, STD),
        cache=CachePlace(folder=os.path.join(work, "cache")),
    )

    def epoch(number: int) -> Batches:
        loader.set_epoch(number)
        return loader

    return epoch


def _files(root: str) -> Callable[[int], Batches]:
    images = ImageFolder(os.path.join(root, "train"), torchvision_transform(_CASE))
    loader = DataLoader(images, batch_size=BATCH, shuffle=True, num_workers=WORKERS)
    return lambda _: loader


def _section(options: argparse.Namespace, seconds: dict[str, list[float]]) -> str:
    ratio = spread_of(files / ours for ours, files in zip(seconds["ours"], seconds["files"], strict=True))
    lines = ["| ResNet-34, 32x32, from | seconds | images/s |", "|---|--:|--:|"]
    full = -(-options.png // BATCH)
    batches = full if options.epoch else min(options.batches, full)
    images = min(batches * BATCH, options.png)
    for name, times in seconds.items():
        spread = spread_of(times)
        if spread:
            rate = images / statistics.median(times)
            lines.append(f"| {_TITLES[name]} | {spread_text(spread, '{:.2f}')} | {rate:,.0f} |")
    table = "\n".join(lines)
    return f"""## Training from ours and from plain files

`{typed("article_race")}`

{today()}: {batches} batches of {BATCH} in each of {len(seconds["ours"])} rounds, on the CPU with {os.cpu_count()}
cores. Two networks start from the same weights, one for each loader, and train in turn; who begins changes from round
to round. The median is given with the least and the greatest; the ratio is taken within a round.

{table}

Plain files take {spread_text(ratio, "{:.2f}") if ratio else "?"} times as long as ours.
"""


def _parse() -> argparse.Namespace:
    parser = parser_of("article_race", "Training from ours and from plain files.", {PNG: 50_000})
    add_rounds(parser)
    parser.add_argument("--batches", type=int, default=64, help="batches of a round (64)")
    parser.add_argument("--epoch", action="store_true", help="whole epochs instead")
    return parser.parse_args()


if __name__ == "__main__":
    main()
