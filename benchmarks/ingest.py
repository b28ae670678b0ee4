"""The speed of turning an image folder into a dataset: ours, other tools, and the bounds.

``python -m benchmarks.ingest --help`` lists the options.
"""

import argparse
import dataclasses
import hashlib
import os
import shutil
import sys
from collections import Counter

import lance

from benchmarks.chart import draw_chart
from benchmarks.contestants import CONTESTANTS
from benchmarks.corpus import JPEG, KINDS, PNG, Kind, change_one_percent, link_corpus, make_corpus
from benchmarks.environment import PeersError, make_environment
from benchmarks.measure import Measurement, bytes_below, empty_folder, measure
from benchmarks.options import add_rounds, add_selection, parser_of
from benchmarks.report import again_table, page_section, targets, targets_table, write_page, writing_table
from benchmarks.results import PEERS, Results

_OURS = ("scratch", "unchanged", "changed")
_WRITERS = (*_OURS, *PEERS)
_TINY = 20
_MEMORY_COPIES = 10


def main() -> None:
    """Measure, print the tables, and write the page where asked to."""
    options = _parse()
    kept = os.path.join(options.folder, "ingest.json")
    if options.render:
        results = Results.load(kept)
    else:
        results = _Benchmark(options).run()
        results.save(kept)
    print("\n\n".join([writing_table(results), again_table(results), targets_table(targets(results))]))
    if options.write:
        write_page(options.write, results, "ingest", draw_chart, page_section)


class _Benchmark:
    """One run of the benchmark in its folder."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._rounds: int = options.rounds
        self._folder: str = os.path.abspath(options.folder)
        self._work = os.path.join(self._folder, "work")
        self._counts: dict[str, int] = {"png": options.png, "jpeg": options.jpeg}
        # The later runs need the dataset of the first one.
        chosen = {*options.only, "scratch"} if {*options.only} & {*_OURS} else {*options.only}
        self._memory = "memory" in chosen
        # The run that changes the files comes last in a round.
        self._names = [name for name in CONTESTANTS if name in chosen and name != "changed"]
        self._names += ["changed"] * ("changed" in chosen)
        self._pythons = dict.fromkeys(CONTESTANTS, sys.executable)
        self._errors: dict[str, str] = {}

    def run(self) -> Results:
        """Measure all rounds of all kinds, then the memory."""
        results = Results.begun("ingest", self._counts)
        self._install_peers()
        with empty_folder(self._work):
            for kind in KINDS.values():
                if self._counts[kind.name] and self._names:
                    results.runs[kind.name] = self._measure_kind(kind)
            if self._memory:
                results.memory = [self._measure_memory(copies) for copies in (1, _MEMORY_COPIES)]
        return results

    def _install_peers(self) -> None:
        peers = {*PEERS} & {*self._names} - {"article"}
        if peers:
            try:
                self._pythons |= dict.fromkeys(peers, make_environment(os.path.join(self._folder, "peers")))
            except PeersError as error:
                self._errors = dict.fromkeys(peers, f"it cannot be installed: {error}")

    def _measure_kind(self, kind: Kind) -> dict[str, list[Measurement]]:
        root, tree = make_corpus(self._folder, kind, self._counts[kind.name]), os.path.join(self._work, "tree")
        runs: dict[str, list[Measurement]] = {name: [] for name in self._names}
        for number in range(self._rounds):
            with empty_folder(self._work):
                link_corpus(root, tree)
                # Loads all files into the page cache.
                measure("read", tree, os.path.join(self._work, "read"), self._tiny(kind))
                for name in self._names:
                    run = self._measure_one(name, kind, tree)
                    runs[name].append(run)
                    _tell(f"{kind.name}, round {number + 1} of {self._rounds}, {name}", run)
        return runs

    def _measure_one(self, name: str, kind: Kind, tree: str) -> Measurement:
        if name in self._errors:
            return Measurement(error=self._errors[name])
        count = change_one_percent(tree, kind) if name == "changed" else self._counts[kind.name]
        out = os.path.join(self._work, "ours" if name in _OURS else name)
        run = measure(name, tree, out, self._tiny(kind), self._pythons[name])
        run = run if run.error or name not in _WRITERS else _checked(run, count, out, tree)
        if name not in _OURS:
            shutil.rmtree(out, ignore_errors=True)
            shutil.rmtree(f"{out}.cache", ignore_errors=True)
        return run

    def _measure_memory(self, copies: int) -> Measurement:
        root = make_corpus(self._folder, PNG, self._counts["png"])
        with empty_folder(self._work):
            tree, out = os.path.join(self._work, "tree"), os.path.join(self._work, "ours")
            link_corpus(root, tree, copies)
            run = measure("scratch", tree, out, self._tiny(PNG))
            run = run if run.error else _checked(run, self._counts["png"] * copies, out, tree)
        _tell(f"memory, {copies} x png", run)
        return run

    def _tiny(self, kind: Kind) -> str:
        return make_corpus(self._folder, kind, _TINY)


def _checked(run: Measurement, count: int, out: str, tree: str) -> Measurement:
    """The measurement, turned into a failure unless all images were written with their bytes."""
    error = ""
    if run.images != count:
        error = f"wrote {run.images} of {count} images"
    elif os.path.isdir(os.path.join(out, "_versions")):
        error = "" if _images_below(tree) == _images_in(out) else "the dataset's images are not those of the files"
    elif bytes_below(out) < 0.9 * bytes_below(tree):
        error = f"wrote {bytes_below(out)} bytes, too few for the images"
    return dataclasses.replace(run, error=error)


def _images_below(tree: str) -> Counter[bytes]:
    """The number of files with each content, by its digest."""
    found: Counter[bytes] = Counter()
    for folder, _, names in os.walk(tree):
        for name in names:
            with open(os.path.join(folder, name), "rb") as file:
                found[hashlib.sha256(file.read()).digest()] += 1
    return found


def _images_in(uri: str) -> Counter[bytes]:
    """The number of rows of a Lance dataset with each content, by its digest."""
    batches = lance.dataset(uri).to_batches(columns=["image"])
    return Counter(hashlib.sha256(image.as_py()).digest() for batch in batches for image in batch["image"])


def _tell(what: str, run: Measurement) -> None:
    outcome = run.error or f"{run.seconds:.2f} s, {run.images / run.seconds:,.0f} images/s, {run.peak / 2**20:,.0f} MiB"
    print(f"{what}: {outcome}", file=sys.stderr, flush=True)


def _parse() -> argparse.Namespace:
    parser = parser_of("ingest", "How fast an image folder becomes a dataset.", {PNG: 50_000, JPEG: 3_000})
    add_rounds(parser)
    add_selection(parser, [*CONTESTANTS, "memory"])
    return parser.parse_args()


if __name__ == "__main__":
    main()
