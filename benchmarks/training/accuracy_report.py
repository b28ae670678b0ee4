"""The report of the time to accuracy: Markdown tables, and a section of a page."""

import statistics
from collections.abc import Sequence

from benchmarks.report import Target, spread_text, targets_table
from benchmarks.results import Results, spread_of
from benchmarks.training.course import IMAGE_SIZE, RECIPES, TITLES, courses, seconds_to_goal, sooner
from benchmarks.training.sources import SOURCES

_AT_LEAST = 3.0


def accuracy_targets(results: Results) -> list[Target]:
    """The target for each dataset, with the results."""
    found: list[Target] = []
    for source in SOURCES:
        text = f"{SOURCES[source].title}: as good as the article's best {_AT_LEAST:g} times as soon"
        ratio = sooner(results, source)
        if ratio:
            found.append(Target(text, spread_text(ratio, "{:.2f}"), ratio.median >= _AT_LEAST))
        else:
            ended = seconds_to_goal(results, source, "ours")
            found.append(Target(text, "not reached" if ended else "", False if ended else None))
    return found


def source_table(results: Results, source: str) -> str:
    """The table of the accuracy that each recipe reaches on a dataset, and of the time it takes."""
    title = f"{SOURCES[source].title}, {results.counts[source]:,} training images"
    lines = [
        f"| {title} | epochs | best val accuracy | at the end | seconds to the article's best | seconds in all |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    return "\n".join([*lines, *(_row(results, source, name) for name in RECIPES)])


def accuracy_section(results: Results, picture: str) -> str:
    """The section in Markdown; ``picture`` is the chart's path relative to the page."""
    machine = "\n".join(f"| {title} | {text} |" for title, text in results.machine.items())
    tables = "\n\n".join(source_table(results, source) for source in results.runs)
    sources = "\n".join(f"- {_about(results, source)}" for source in results.runs)
    return f"""## As good as the article's recipe, sooner

`{results.command}`

{results.date}: ResNet-34 from random weights, in fp32 on the CPU, on images of {IMAGE_SIZE}x{IMAGE_SIZE}. Both recipes
train by `fit_network` from Lance datasets, each training in a process of its own. Ours are the defaults; the article's
is `preset: article` with `weights: none`, for all of its epochs. The datasets are

{sources}

The time counts from the beginning of the training, the model not yet built, and has decoding and validation in it. The
article's best is the best validation accuracy of all its epochs with the same seed, which is reached at the end of the
first epoch that is at least as good. With several seeds, figures are medians with the least and the greatest, and
ratios are taken within a seed.

| machine | |
|---|---|
{machine}

![Validation accuracy over time]({picture})

{tables}

{targets_table(accuracy_targets(results))}
"""


def _row(results: Results, source: str, name: str) -> str:
    runs = [run for run in courses(results, source, name) if not run.error]
    if not runs:
        return f"| {TITLES[name]} | {results.error(source, name)} | | | | |"
    reached = seconds_to_goal(results, source, name)
    seconds = _numbers([one for one in reached if one is not None], "{:,.0f}")
    missed = f" (not reached with {reached.count(None)} of {len(reached)} seeds)" if None in reached else ""
    cells = [
        f"{statistics.median(len(run.ends) for run in runs):g}",
        _numbers([run.best for run in runs], "{:.2%}"),
        _numbers([run.accuracies[-1] for run in runs], "{:.2%}"),
        f"{seconds}{missed}",
        _numbers([run.seconds for run in runs], "{:,.0f}"),
    ]
    return f"| {TITLES[name]} | {' | '.join(cells)} |"


def _numbers(values: Sequence[float], form: str) -> str:
    spread = spread_of(values)
    if spread is None:
        return ""
    return spread_text(spread, form) if len(values) > 1 else form.format(spread.median)


def _about(results: Results, source: str) -> str:
    seeds = [str(run.seed) for run in courses(results, source, "ours")]
    known = SOURCES[source]
    return f"{known.title} ({known.about}), with the seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}"
