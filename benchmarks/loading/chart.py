"""A bar chart of the loaders."""

from matplotlib.figure import Figure

from benchmarks.chart import BOUND, OTHERS, OURS, Bar, draw_bars
from benchmarks.loading.cases import CASES
from benchmarks.loading.contestants import CONTESTANTS, IDLE
from benchmarks.results import Results

_FILLS = {"ours": OURS, "peer": OTHERS, "bound": BOUND}


def draw_loader_chart(results: Results, path: str) -> None:
    """Draw a row for each case: the rates of all loaders, on a logarithmic scale."""
    cases = list(results.runs)
    shown = {case: [name for name in CONTESTANTS if name in results.runs[case] and name != IDLE] for case in cases}
    heights = [len(names) + 3 for names in shown.values()]
    figure = Figure(figsize=(9, 0.27 * sum(heights)), layout="constrained")
    grid = figure.subplots(len(cases), 1, squeeze=False, height_ratios=heights)
    for axes, case in zip(grid[:, 0], cases, strict=True):
        bars = [
            Bar(CONTESTANTS[name].title, results.rate(case, name), _FILLS[CONTESTANTS[name].role])
            for name in shown[case]
        ]
        draw_bars(axes, bars, "{:,.0f}", logarithmic=True)
        axes.set_title(f"{results.counts[case]:,} {CASES[case].title}", fontsize=10)
    grid[-1, 0].set_xlabel("images per second, on a logarithmic scale: longer is faster")
    figure.savefig(path, dpi=100)
