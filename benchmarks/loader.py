"""The speed of our loader and of others, compared with the bounds.

``python -m benchmarks.loader --help`` lists the options.
"""

import argparse
import os
import statistics
import sys

from benchmarks.corpus import JPEG, LARGE, PNG, make_corpus
from benchmarks.environment import PeersError, add_compiled, make_environment
from benchmarks.loading.cases import CASES, Case
from benchmarks.loading.chart import draw_loader_chart
from benchmarks.loading.contestants import CONTESTANTS, IDLE
from benchmarks.loading.report import PACKAGES, PEER_PACKAGES, case_table, loader_section, loader_targets
from benchmarks.measure import Ended, Loading, empty_folder, run_child
from benchmarks.options import add_rounds, add_selection, parser_of
from benchmarks.report import targets_table, write_page
from benchmarks.results import Results


def main() -> None:
    """Measure, print the tables, and write the page where asked to."""
    options = _parse()
    kept = os.path.join(options.folder, "loader.json")
    if options.render:
        results = Results.load(kept, Loading)
    else:
        results = _Benchmark(options).run()
        results.save(kept)
    print("\n\n".join([*(case_table(results, case) for case in results.runs), targets_table(loader_targets(results))]))
    if options.write:
        write_page(options.write, results, "loader", draw_loader_chart, loader_section)


class _Benchmark:
    """One run of the benchmark in its folder."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._rounds: int = options.rounds
        self._epochs: int = options.epochs
        self._folder: str = os.path.abspath(options.folder)
        self._work = os.path.join(self._folder, "loader_work")
        self._counts: dict[str, int] = {name: getattr(options, name) for name in CASES}
        # Memory is reported relative to the idle process.
        self._names = [name for name in CONTESTANTS if name in {*options.only, IDLE}]
        self._pythons = dict.fromkeys(CONTESTANTS, sys.executable)
        self._errors: dict[str, str] = {}

    def run(self) -> Results:
        """Measure all rounds of all cases."""
        results = Results.begun("loader", self._counts, PACKAGES, PEER_PACKAGES)
        self._install_peers()
        for name, case in CASES.items():
            if self._counts[name]:
                with empty_folder(self._work):
                    results.runs[name] = dict(self._measure_case(case))
        return results

    def _install_peers(self) -> None:
        """Install the peers' environment; a failed package becomes an error of the contestants that need it."""
        folder, peers = os.path.join(self._folder, "peers"), {n for n in self._names if CONTESTANTS[n].own_environment}
        if not peers:
            return
        try:
            self._pythons |= dict.fromkeys(peers, make_environment(folder))
        except PeersError as error:
            self._errors |= dict.fromkeys(peers, f"it cannot be installed: {error}")
            return
        for package in {CONTESTANTS[name].compiled for name in peers} - {""}:
            try:
                add_compiled(folder, package)
            except PeersError as error:
                needing = [name for name in peers if CONTESTANTS[name].compiled == package]
                self._errors |= dict.fromkeys(needing, f"it cannot be installed: {error}")

    def _measure_case(self, case: Case) -> dict[str, list[Loading]]:
        root = make_corpus(self._folder, case.kind, self._counts[case.kind.name])
        names = [name for name in self._names if case.kind.name in CONTESTANTS[name].cases]
        failed = self._prepare(names, case, root)
        runs: dict[str, list[Loading]] = {name: [] for name in names}
        for number in range(self._rounds):
            for name in names:
                error = self._errors.get(name) or failed.get(CONTESTANTS[name].data, "")
                run = Loading(error=error) if error else self._measure_one(name, case, root)
                runs[name].append(run)
                _tell(f"{case.kind.name}, round {number + 1} of {self._rounds}, {name}", run)
        return runs

    def _prepare(self, names: list[str], case: Case, root: str) -> dict[str, str]:
        """Write the loaders' data; returns the errors by the name of the data."""
        failed: dict[str, str] = {}
        for name in names:
            data = CONTESTANTS[name].data
            if not data or name in self._errors or os.path.exists(os.path.join(self._work, data)) or data in failed:
                continue
            out = os.path.join(self._work, data)
            ended = self._child(name, "prepare", name, case.kind.name, root, out)
            if ended.error:
                failed[data] = f"its data cannot be written: {ended.error}"
        return failed

    def _measure_one(self, name: str, case: Case, root: str) -> Loading:
        """Run a loader in a separate process, and open it again in another one if it has a cache."""
        data, own = os.path.join(self._work, CONTESTANTS[name].data or "none"), os.path.join(self._work, f"{name}.own")
        with empty_folder(own):
            ended = self._child(name, "load", name, case.kind.name, root, data, own, str(self._epochs))
            if ended.error:
                return Loading(error=ended.error)
            again = None
            if CONTESTANTS[name].caches:
                again = self._child(name, "load", name, case.kind.name, root, data, own, "0")
                if again.error:
                    return Loading(error=f"opened again: {again.error}")
        facts = ended.facts
        count, images = self._counts[case.kind.name], facts["images"]
        if not 0.99 * count <= images <= count and name != IDLE:
            return Loading(error=f"gave {images} of {count} images in an epoch")
        return Loading(
            images=images,
            seconds=statistics.median(facts["epochs"]),
            peak=max(ended.peak, facts["peak"]),
            epochs=tuple(facts["epochs"]),
            first=facts["first"],
            reopened=again.facts["first"] if again else None,
        )

    def _child(self, name: str, *arguments: str) -> Ended:
        command = [self._pythons[name], "-m", "benchmarks.loading.child", *arguments]
        return run_child(command, os.path.join(self._work, f"{name}.tmp"))


def _tell(what: str, run: Loading) -> None:
    outcome = run.error or (
        f"{run.images / run.seconds:,.0f} images/s, {run.peak / 2**20:,.0f} MiB, first batch {run.first:.2f} s"
    )
    print(f"{what}: {outcome}", file=sys.stderr, flush=True)


def _parse() -> argparse.Namespace:
    counts = {PNG: 50_000, JPEG: 3_000, LARGE: 600}
    parser = parser_of("loader", "How fast batches for training come out of a loader.", counts)
    parser.add_argument("--epochs", type=int, default=3, help="timed epochs of a run, after one to warm up (3)")
    add_rounds(parser)
    add_selection(parser, [name for name in CONTESTANTS if name != IDLE])
    return parser.parse_args()


if __name__ == "__main__":
    main()
