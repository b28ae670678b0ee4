"""The report of the results: Markdown tables, and a section of a page."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.corpus import KINDS
from benchmarks.results import AGAIN, BOUNDS, PEERS, Results, Spread

_MIB = 2**20


@dataclass(frozen=True)
class Target:
    """A target, the measured value, and whether the target is met; None if it was not measured."""

    text: str
    measured: str
    met: bool | None


def targets(results: Results) -> list[Target]:
    """All targets of the ingest, with the results."""
    found = [
        at_least(results, "png", "scratch", "article", 3.5, "PNG: at least 3.5 times the article's way"),
        _ahead_of_peers(results),
        at_least(results, "jpeg", "scratch", "decode", 0.9, "JPEG: at least 0.9 of decoding alone"),
    ]
    again = [
        ("unchanged", "png", 12, "PNG, nothing changed: at least 12 times as fast as from scratch"),
        ("unchanged", "jpeg", 30, "JPEG, nothing changed: at least 30 times as fast as from scratch"),
        ("changed", "png", 8, "PNG, 1 % changed: at least 8 times as fast as from scratch"),
        ("changed", "jpeg", 15, "JPEG, 1 % changed: at least 15 times as fast as from scratch"),
    ]
    found += [at_least(results, kind, name, "scratch", least, text) for name, kind, least, text in again]
    return found + _memory_targets(results)


def page_section(results: Results, picture: str) -> str:
    """The section in Markdown; ``picture`` is the chart's path relative to the page."""
    machine = "\n".join(f"| {title} | {text} |" for title, text in results.machine.items())
    kinds = [f"{results.counts[kind]:,} {KINDS[kind].title}" for kind in results.runs]
    rounds = max((len(runs) for names in results.runs.values() for runs in names.values()), default=0)
    return f"""## Writing image folders into a dataset

`{results.command}`

{results.date}: {" and ".join(kinds)} of 10 classes, files in the page cache. Each figure is the median of
{rounds} rounds with the least and the greatest; in a round every contestant runs once, in a process of its own. Ratios
are taken within a round; the table has their median. Ours decodes every image and computes its digests and statistics;
the peers copy the bytes unseen.

| machine | |
|---|---|
{machine}

![Images per second of each contestant]({picture})

{writing_table(results)}

Memory is the resident memory of all processes together; pages that forked processes share count once for each.

{again_table(results)}

{targets_table(targets(results))}
"""


def writing_table(results: Results) -> str:
    """The table of our ingest from scratch, the peers, and the bounds."""
    kinds = list(results.runs)
    head = "".join(f" {kind.upper()} images/s | ours ÷ it | peak memory |" for kind in kinds)
    lines = [f"| |{head}", "|---|" + "--:|--:|--:|" * len(kinds)]
    titles = {"scratch": "**ours, every image decoded**"} | PEERS
    titles |= {name: f"*bound: {title}*" for name, title in BOUNDS.items()}
    for name, title in titles.items():
        if any(name in results.runs[kind] for kind in kinds):
            lines.append(f"| {title} |" + "".join(_writing_cells(results, kind, name) for kind in kinds))
    return "\n".join(lines)


def again_table(results: Results) -> str:
    """The table of updates of a dataset, with the listing that no tool can avoid."""
    lines = ["| ours, again | seconds | images/s | times scratch |", "|---|--:|--:|--:|"]
    for kind in results.runs:
        for name, title in AGAIN.items():
            if name in results.runs[kind]:
                lines.append(f"| {kind.upper()}, {title} |{_again_cells(results, kind, name)}")
    return "\n".join(lines)


def targets_table(found: list[Target]) -> str:
    """The table of targets and measured values."""
    words = {True: "met", False: "**missed**", None: "not measured"}
    lines = [f"| {one.text} | {one.measured} | {words[one.met]} |" for one in found]
    return "\n".join(["| target | measured | |", "|---|--:|---|", *lines])


def write_page(
    page: str,
    results: Results,
    name: str,
    draw: Callable[[Results, str], None],
    section: Callable[[Results, str], str],
) -> None:
    """Write a section with a picture; both are named after the benchmark.

    Args:
        page: the page that gets the section.
        results: the results to report.
        name: the name of the benchmark.
        draw: draws the results to a path.
        section: formats the results as Markdown, given the picture's path relative to the page.
    """
    picture = os.path.join("images", f"benchmark_{name}.png")
    path = os.path.join(os.path.dirname(page), picture)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    draw(results, path)
    replace_section(page, section(results, picture), name.replace("_", "-"))


def replace_section(page: str, section: str, name: str) -> None:
    """Replace the section between the two marks of its name in the page; append it if there are no marks."""
    text = "# Benchmarks\n"
    if os.path.exists(page):
        with open(page) as file:
            text = file.read()
    os.makedirs(os.path.dirname(os.path.abspath(page)), exist_ok=True)
    marked = f"<!-- {name} -->\n{section.strip()}\n<!-- /{name} -->"
    text, found = re.subn(f"<!-- {name} -->.*?<!-- /{name} -->", lambda _: marked, text, flags=re.DOTALL)
    with open(page, "w") as file:
        file.write(text if found else f"{text.rstrip()}\n\n{marked}\n")


def _writing_cells(results: Results, kind: str, name: str) -> str:
    rate = results.rate(kind, name)
    if rate is None:
        return f" {results.error(kind, name)} | | |"
    peak = results.peak(kind, name) or 0
    return (
        f" {rate_text(results, kind, name)} | {ratio_text(results, kind, 'scratch', name)} | {peak / _MIB:,.0f} MiB |"
    )


def _again_cells(results: Results, kind: str, name: str) -> str:
    seconds = results.seconds(kind, name)
    if seconds is None:
        return f" {results.error(kind, name)} | | |"
    cells = [spread_text(seconds, "{:.3g}"), rate_text(results, kind, name), ratio_text(results, kind, name, "scratch")]
    return f" {' | '.join(cells)} |"


def rate_text(results: Results, kind: str, name: str) -> str:
    """Images per second, and why rounds failed."""
    rate, error = results.rate(kind, name), results.error(kind, name)
    return (spread_text(rate, "{:,.0f}") if rate else "") + (f" ({error})" if error else "")


def ratio_text(results: Results, kind: str, name: str, other: str) -> str:
    """The rate of one as a multiple of the other's; empty if one was not measured."""
    ratio = results.ratio(kind, name, other)
    return f"{ratio.median:,.2f}" if ratio else ""


def spread_text(spread: Spread, form: str) -> str:
    """The median, with the minimum and the maximum."""
    return f"{form.format(spread.median)} ({form.format(spread.low)} to {form.format(spread.high)})"


def at_least(results: Results, kind: str, name: str, other: str, least: float, text: str) -> Target:
    """The target that the rate of ``name`` is at least the given multiple of that of ``other``."""
    ratio = results.ratio(kind, name, other)
    return Target(text, f"{ratio.median:.2f}" if ratio else "", ratio.median >= least if ratio else None)


def _ahead_of_peers(results: Results) -> Target:
    text = "PNG: ahead of every peer"
    ratios = {title: results.ratio("png", "scratch", name) for name, title in PEERS.items()}
    medians = {title: ratio.median for title, ratio in ratios.items() if ratio}
    if not medians:
        return Target(text, "", None)
    nearest = min(medians, key=medians.__getitem__)
    ahead = medians[nearest] > 1
    # A peer that failed may have been the fastest.
    return Target(
        text, f"{medians[nearest]:.2f} times {nearest}", None if ahead and len(medians) < len(PEERS) else ahead
    )


def _memory_targets(results: Results) -> list[Target]:
    count = results.counts["png"]
    texts = (f"Memory: at most 1 GiB on {10 * count:,} PNG", f"Memory: within 10 % of that on {count:,} PNG")
    if len(results.memory) < 2 or any(run.error for run in results.memory):
        errors = [run.error for run in results.memory if run.error]
        return [Target(text, "; ".join(errors), None) for text in texts]
    small, large = (run.peak for run in results.memory)
    return [
        Target(texts[0], f"{large / _MIB:,.0f} MiB", large <= 1024 * _MIB),
        Target(texts[1], f"{large / small - 1:+.1%} of {small / _MIB:,.0f} MiB", large <= 1.1 * small),
    ]
