"""How much sooner our default recipe reaches the article's best accuracy.

``python -m benchmarks.time_to_accuracy --help`` lists the options.
"""

import argparse
import os
import sys
from collections.abc import Iterator

from benchmarks.measure import empty_folder, run_child
from benchmarks.options import add_selection, parser_of
from benchmarks.report import targets_table, write_page
from benchmarks.results import Results
from benchmarks.training.accuracy_chart import draw_accuracy_chart
from benchmarks.training.accuracy_report import accuracy_section, accuracy_targets, source_table
from benchmarks.training.course import RECIPES, Course, recipe_of
from benchmarks.training.sources import SOURCES, make_source
from lance_pipeline.errors import InputError

PACKAGES = ("torch", "torchvision", "pylance", "numpy")
_LIMIT_SECONDS = 4 * 3600


def main() -> None:
    """Measure, print the tables, and write the page where asked to."""
    options = _parse()
    kept = os.path.join(options.folder, "time_to_accuracy.json")
    if options.render:
        results = Results.load(kept, Course)
    else:
        try:
            results = _measured(options, kept)
        except InputError as error:
            sys.exit(str(error))
    tables = [source_table(results, source) for source in results.runs]
    print("\n\n".join([*tables, targets_table(accuracy_targets(results))]))
    if options.write:
        write_page(options.write, results, "time_to_accuracy", draw_accuracy_chart, accuracy_section)


def _measured(options: argparse.Namespace, kept: str) -> Results:
    """Run all trainings; the results are saved after each, because trainings take long."""
    folder = os.path.abspath(options.folder)
    roots = {source: make_source(source, folder, options.images) for source in SOURCES if source in options.only}
    results = Results.begun("time_to_accuracy", {}, PACKAGES, ())
    for source, root in roots.items():
        runs: dict[str, list[Course]] = {name: [] for name in RECIPES}
        results.runs[source] = runs
        for name, seed in _turns(options.seeds[source]):
            run = _trained(os.path.join(folder, "accuracy_work"), root, source, name, seed, options.epochs)
            runs[name].append(run)
            results.counts[source] = max(run.images for course in runs.values() for run in course)
            _tell(f"{source}, seed {seed}, {name}", run)
            results.save(kept)
    return results


def _turns(seeds: list[int]) -> Iterator[tuple[str, int]]:
    """The contestants and seeds in order; the first contestant alternates from seed to seed."""
    for number, seed in enumerate(seeds):
        for name in list(RECIPES)[:: -1 if number % 2 else 1]:
            yield name, seed


def _trained(work: str, root: str, source: str, name: str, seed: int, epochs: int | None) -> Course:
    recipe = recipe_of(name, source, seed, epochs).model_dump_json()
    with empty_folder(work):
        command = [sys.executable, "-m", "benchmarks.training.child", root, work, recipe]
        ended = run_child(command, os.path.join(work, "tmp"), _LIMIT_SECONDS)
    if ended.error:
        return Course(error=ended.error, seed=seed)
    return Course(**{**ended.facts, "peak": max(ended.peak, ended.facts["peak"]), "seed": seed})


def _tell(what: str, run: Course) -> None:
    outcome = run.error or f"{run.best:.2%} in {run.seconds_to(run.best):.0f} of {run.seconds:.0f} s"
    print(f"{what}: {outcome}", file=sys.stderr, flush=True)


def _parse() -> argparse.Namespace:
    parser = parser_of("time_to_accuracy", "How much sooner our recipe is as good as the article's ever gets.", {})
    parser.add_argument("--images", type=int, default=10_000, help="training images of Fashion-MNIST (10000)")
    parser.add_argument("--epochs", type=int, help="of both recipes, for a quick look; their own when left out")
    parser.add_argument("--digits-seeds", type=int, nargs="+", default=[0, 1, 2], metavar="SEED", help="(0 1 2)")
    parser.add_argument("--fashion-seeds", type=int, nargs="+", default=[0], metavar="SEED", help="(0)")
    add_selection(parser, list(SOURCES))
    options = parser.parse_args()
    options.seeds = {"digits": options.digits_seeds, "fashion": options.fashion_seeds}
    return options


if __name__ == "__main__":
    main()
