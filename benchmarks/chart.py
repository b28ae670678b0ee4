"""Bar charts of the results."""

from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from benchmarks.corpus import KINDS
from benchmarks.results import AGAIN, PEERS, Results, Spread

OURS, OTHERS, BOUND, _INK = "#4c78a8", "#c3c7cd", "#ffffff", "#555b63"
# A logarithmic scale is long if the highest rate is at least this many times the lowest.
_LONG = 150
# Reading alone is omitted: it is so fast that all other bars would be tiny.
_ABOVE = {"scratch": "ours (decodes all)"} | PEERS | {"decode": "decoding alone"}
_BELOW = {name: title for name, title in AGAIN.items() if name != "list"}


@dataclass(frozen=True)
class Bar:
    """A contestant's bar; without a spread, the contestant has failed."""

    title: str
    spread: Spread | None
    fill: str


def draw_chart(results: Results, path: str) -> None:
    """Draw a column for each kind: the rates of all contestants above, the seconds of our runs below."""
    kinds = list(results.runs)
    figure = Figure(figsize=(5.6 * len(kinds), 5.8), layout="constrained")
    grid = figure.subplots(2, len(kinds), squeeze=False, height_ratios=[2.3, 1])
    for (above, below), kind in zip(grid.T, kinds, strict=True):
        shown = results.runs[kind]
        bars = [Bar(title, results.rate(kind, name), _fill(name)) for name, title in _ABOVE.items() if name in shown]
        draw_bars(above, bars, "{:,.0f}")
        above.set_title(f"{results.counts[kind]:,} {KINDS[kind].title}")
        above.set_xlabel("images per second: longer is faster")
        bars = [Bar(title, results.seconds(kind, name), OURS) for name, title in _BELOW.items() if name in shown]
        draw_bars(below, bars, "{:.3g} s")
        below.set_xlabel("seconds of our ingest: shorter is faster")
    figure.savefig(path, dpi=100)


def _fill(name: str) -> str:
    return {"scratch": OURS, "decode": BOUND}.get(name, OTHERS)


def draw_bars(axes: Axes, bars: list[Bar], form: str, *, logarithmic: bool = False) -> None:
    """Draw a bar for each median, with a line from the minimum to the maximum."""
    least = min((bar.spread.low for bar in bars if bar.spread), default=1.0)
    reach = max((bar.spread.high for bar in bars if bar.spread), default=1.0)
    left = least / 2 if logarithmic else 0
    for row, bar in enumerate(bars):
        if bar.spread is None:
            axes.text(left, row, " failed", va="center", color=_INK, fontsize=9)
            continue
        edge, hatch = (_INK, "////") if bar.fill == BOUND else (bar.fill, None)
        axes.barh(row, bar.spread.median, 0.7, color=bar.fill, edgecolor=edge, hatch=hatch, linewidth=0.8)
        axes.plot([bar.spread.low, bar.spread.high], [row, row], color=_INK, linewidth=1.4, marker="|", markersize=7)
        aside = bar.spread.high * 1.1 if logarithmic else bar.spread.high + reach / 50
        axes.text(aside, row, form.format(bar.spread.median), va="center", fontsize=9)
    axes.set_yticks(range(len(bars)), [bar.title for bar in bars])
    axes.invert_yaxis()
    if logarithmic:
        axes.set_xscale("log")
        # On a long scale, three labels per factor of ten would overlap.
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if reach < _LONG * least else (1,)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.locator_params(axis="x", nbins=5)
    axes.set_xlim(left, reach * (4 if logarithmic else 1.2))
    axes.xaxis.set_major_formatter("{x:,.12g}")
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
