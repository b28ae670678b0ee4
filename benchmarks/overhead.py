"""The overhead of our loader, checkpoints, MLflow and Dagster over the bare work.

``python -m benchmarks.overhead --help`` lists the options.
"""

import argparse
import os
import sys
from collections.abc import Callable, Collection

from benchmarks.corpus import PNG, make_corpus
from benchmarks.measure import empty_folder, run_child
from benchmarks.options import add_rounds, add_selection, parser_of
from benchmarks.report import replace_section, targets_table
from benchmarks.results import Results
from benchmarks.training.overhead_report import (
    STAGES,
    WHOLE,
    overhead_section,
    overhead_targets,
    stages_table,
    whole_table,
)
from benchmarks.training.timed import Timed
from benchmarks.training.whole_run import RUNS

PACKAGES = ("torch", "pylance", "dagster", "mlflow")


def main() -> None:
    """Measure, print the tables, and write the page where asked to."""
    options = _parse()
    kept = os.path.join(options.folder, "overhead.json")
    if options.render:
        results = Results.load(kept, Timed)
    else:
        results = _Benchmark(options).run()
        results.save(kept)
    tables = [stages_table(results), whole_table(results), targets_table(overhead_targets(results))]
    print("\n\n".join(filter(None, tables)))
    if options.write:
        replace_section(options.write, overhead_section(results), "overhead")


class _Benchmark:
    """One run of the benchmark in its folder."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._folder: str = os.path.abspath(options.folder)
        self._work = os.path.join(self._folder, "overhead_work")

    def run(self) -> Results:
        """Measure all rounds of the stages of a training, then those of the whole run."""
        counts = {"images": self._options.png, "epochs": self._options.epochs}
        results = Results.begun("overhead", counts, PACKAGES, ())
        stages, whole = ([name for name in names if name in self._options.only] for names in (STAGES, WHOLE))
        if stages:
            with empty_folder(self._work):
                if error := self._stage("prepare").error:
                    sys.exit(f"the datasets cannot be made: {error}")
                results.runs["stages"] = _rounds(stages, self._options.rounds, self._stage)
        if whole:
            results.runs["whole"] = _rounds(whole, self._options.whole_rounds, self._whole)
        return results

    def _stage(self, name: str) -> Timed:
        root = os.path.join(make_corpus(self._folder, PNG, self._options.png), "train")
        data = os.path.join(self._work, "data")
        command = [sys.executable, "-m", "benchmarks.training.stages", name, root, data, str(self._options.epochs)]
        ended = run_child(command, os.path.join(self._work, "tmp"))
        if ended.error:
            return Timed(error=ended.error)
        return Timed(**{**ended.facts, "peak": max(ended.peak, ended.facts["peak"])})

    def _whole(self, name: str) -> Timed:
        with empty_folder(self._work):
            return RUNS[name](self._work)


def _rounds(names: Collection[str], rounds: int, measure: Callable[[str], Timed]) -> dict[str, list[Timed]]:
    """Run all contestants in each round; their order alternates."""
    runs: dict[str, list[Timed]] = {name: [] for name in names}
    for number in range(rounds):
        for name in list(names)[:: -1 if number % 2 else 1]:
            runs[name].append(measure(name))
            outcome = runs[name][-1].error or f"{runs[name][-1].seconds:.2f} s"
            print(f"round {number + 1} of {rounds}, {name}: {outcome}", file=sys.stderr, flush=True)
    return runs


def _parse() -> argparse.Namespace:
    parser = parser_of("overhead", "What all that surrounds a training costs.", {PNG: 5_000})
    parser.add_argument("--epochs", type=int, default=3, help="of a training (3)")
    add_rounds(parser)
    parser.add_argument("--whole-rounds", type=int, default=3, help="how often the whole run of digits is measured (3)")
    add_selection(parser, [*STAGES, *WHOLE])
    return parser.parse_args()


if __name__ == "__main__":
    main()
