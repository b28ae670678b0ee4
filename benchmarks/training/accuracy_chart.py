"""Learning curves over time."""

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from benchmarks.chart import OTHERS, OURS
from benchmarks.results import Results
from benchmarks.training.course import RECIPES, courses
from benchmarks.training.sources import SOURCES

_INK = "#555b63"
_COLORS = {"ours": OURS, "article": OTHERS}
_LABELS = {"ours": "ours, all defaults", "article": "the article's recipe"}


def draw_accuracy_chart(results: Results, path: str) -> None:
    """Draw a panel per dataset: a curve for each training, and a line at the article's best for each seed."""
    figure = Figure(figsize=(5.6 * len(results.runs), 4), layout="constrained")
    grid = figure.subplots(1, len(results.runs), squeeze=False)
    for axes, source in zip(grid[0], results.runs, strict=True):
        for name in RECIPES:
            for number, run in enumerate(run for run in courses(results, source, name) if not run.error):
                label = None if number else _LABELS[name]
                axes.plot(run.ends, run.accuracies, color=_COLORS[name], linewidth=1.4, label=label)
                if name == "article":
                    label = None if number else "its best"
                    axes.axhline(run.best, color=_INK, linewidth=0.8, linestyle="--", label=label)
        axes.set_title(f"{results.counts[source]:,} images of {SOURCES[source].title}", fontsize=10)
        axes.set_xlabel("seconds")
        axes.set_ylim(_floor(results, source), 1.0)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(loc="lower right", frameon=False, fontsize=9)
    grid[0][0].set_ylabel("accuracy on the val split")
    figure.savefig(path, dpi=100)


def _floor(results: Results, source: str) -> float:
    """The lower limit of the axis, low enough to show half of the article's progress."""
    bests = [run.best for run in courses(results, source, "article") if not run.error]
    return max(0.0, min(bests, default=0.0) - 0.3)
