"""The report of the measurements on the GPU: tables, and the targets."""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.gpu.runner import Part
from benchmarks.gpu.sizes import SOURCES

Figures = dict[str, Any]
COMPILED = "bare compiled"


def machine_lines(part: Part) -> list[str]:
    """The machine, on one line."""
    facts = part.figures.get("machine", {})
    return [", ".join(f"{name} {value}" for name, value in facts.items()) or "unknown machine", *_troubles(part)]


def part_lines(name: str, part: Part) -> list[str]:
    """The tables and the errors of a part."""
    heading = f"## {name}: {part.status}" + ("" if part.status == "left out" else f", {part.seconds:.0f} s")
    return [heading, "", *_LINES[name](part.figures), *_troubles(part)]


def _troubles(part: Part) -> list[str]:
    lines = [f"failed: {what}: {error}" for what, error in part.errors.items()]
    return lines + [f"    {line}" for line in part.output]


def _tests_lines(figures: Figures) -> list[str]:
    lines: list[str] = []
    if "pytest" in figures:
        counts = figures["pytest"]
        shown = ", ".join(f"{counts[name]} {name}" for name in ("passed", "failed", "skipped"))
        lines += [f"pytest -m cuda: {shown}", *(f"failed: {name}" for name in counts["failures"])]
    if "repeated" in figures:
        again = figures["repeated"]
        equal = "equal bit for bit" if again["equal"] else "**not equal**"
        lines += [f"two trainings of {again['steps']} steps with one seed: weights {equal}"]
    return lines


def _step_lines(figures: Figures) -> list[str]:
    lines = [f"in {figures['precision']}; the median of rounds, with the least and the greatest"] if figures else []
    for cell in figures.get("cells", []):
        lines += [
            "",
            f"| {cell_title(cell)} | images/s | ÷ bare eager, same flags | ÷ best bare |",
            "|---|--:|--:|--:|",
        ]
        best = best_bare(cell)
        for name, rates in cell["rates"].items():
            flags = name.rpartition(", ")[2]
            against = [ratio(cell, name, f"bare eager, {flags}"), ratio(cell, name, best) if best else None]
            spread = f"{statistics.median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f})"
            lines.append(f"| {name} | {spread} | {' | '.join(map(_number, against))} |")
        lines += [f"| {name} | {error} | | |" for name, error in cell["errors"].items()]
    return lines + [f"left out, for want of time: {what}" for what in figures.get("left_out", [])]


def _pipeline_lines(figures: Figures) -> list[str]:
    lines: list[str] = []
    for name, what in (("png", "images of 32 px"), ("jpeg", "photos")):
        if name in figures:
            lines.append(f"{what}: {figures[name]['images']:,} made in {figures[name]['seconds']:.1f} s")
        if name in figures.get("ingest", {}):
            ingest = figures["ingest"][name]
            rate = ingest["images"] / ingest["seconds"]
            lines.append(f"{what}: {ingest['images']:,} ingested in {ingest['seconds']:.1f} s, {rate:,.0f} images/s")
    if "run" in figures:
        run = figures["run"]
        steps = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in run["steps"].items())
        lines.append(f"from folder to metrics on {run['device']}: {run['seconds']:.1f} s in all; {steps}")
        lines += _epoch_lines("32 px", run["epochs"], "seconds")
    if "photo_training" in figures:
        lines += _epoch_lines("photos", figures["photo_training"]["epochs"], "duration")
    for kind, rate in figures.get("own_step", {}).items():
        lines.append(f"our step on one batch, {kind}: {rate:,.0f} images/s")
    return lines + _loader_lines(figures)


def _loader_lines(figures: Figures) -> list[str]:
    lines: list[str] = []
    if "loader" in figures:
        lines += ["", "| our loader alone | images/s | first epoch, which caches |", "|---|--:|--:|"]
        lines += [
            f"| {name} | {facts['rate']:,.0f} | {_count(facts.get('first_epoch'))} |"
            for name, facts in figures["loader"].items()
        ]
    if "threads" in figures:
        counts = list(next(iter(figures["threads"].values())))
        lines += [
            "",
            f"| our loader with so many threads, images/s (÷ the first) | {' | '.join(counts)} |",
            "|---|" + "--:|" * len(counts),
        ]
        for name, rates in figures["threads"].items():
            cells = [f"{rate:,.0f} ({rate / next(iter(rates.values())):.2f})" for rate in rates.values()]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    if "feeding" in figures:
        kinds = list(figures["feeding"])
        lines += ["", f"| one bare step fed by, images/s | {' | '.join(kinds)} |", "|---|" + "--:|" * len(kinds)]
        for source, title in SOURCES.items():
            rates = [_count(figures["feeding"][kind].get(source)) for kind in kinds]
            lines.append(f"| {title} | {' | '.join(rates)} |")
    return lines


def _epoch_lines(what: str, epochs: Sequence[Figures], seconds: str) -> list[str]:
    return [
        f"training on {what}, epoch {number}: {epoch['images_per_second']:,.0f} images/s, waited for data "
        f"{epoch['data_wait']:.2%}, {epoch[seconds]:.1f} s with validation"
        for number, epoch in enumerate(epochs, 1)
    ]


def _digits_lines(figures: Figures) -> list[str]:
    lines: list[str] = []
    if "accuracy" in figures:
        accuracy = ", ".join(f"{split} {value:.2%}" for split, value in figures["accuracy"].items())
        where = f"{figures['dataset']} on {figures['device']} in {figures['precision']}"
        lines.append(f"{where}: {accuracy}, {figures['seconds']:.1f} s")
    if "gpu_series" in figures:
        lines.append(f"GPU metrics in MLflow: {', '.join(figures['gpu_series']) or 'none'}")
    if "reproduced" in figures:
        again = figures["reproduced"]
        lines.append(f"reproduce: {'the same, bit for bit' if again['same'] else '**not the same**'}")
        lines += [] if again["same"] else [f"    {line}" for line in again["printed"]]
    return lines


def _fashion_lines(figures: Figures) -> list[str]:
    lines = [
        f"{name} on {figures['source']}: best {figures[name]['best']:.2%}, {figures[name]['epochs']} epochs of "
        f"{figures[name]['images']:,} images in {figures[name]['seconds']:.1f} s"
        for name in ("ours", "article")
        if name in figures
    ]
    if "seconds_to_goal" in figures:
        ours, article = (figures["seconds_to_goal"][name] for name in ("ours", "article"))
        times = f"{article / ours:.2f} times as soon" if ours and article else "not reached by ours"
        shown = f"{ours:.1f} s" if ours else "never"
        lines.append(
            f"to the article's best of {figures['goal']:.2%}: ours {shown}, the article {article:.1f} s: {times}"
        )
    return lines


_LINES: dict[str, Callable[[Figures], list[str]]] = {
    "tests": _tests_lines,
    "step": _step_lines,
    "pipeline": _pipeline_lines,
    "digits": _digits_lines,
    "fashion": _fashion_lines,
}


def cell_title(cell: Figures) -> str:
    """The title of a batch shape."""
    return f"{cell['size']} px, {cell['stem']} stem, batch {cell['batch']}"


def ratio(cell: Figures, name: str, other: str) -> float | None:
    """The speed relative to another contestant, the median over rounds; None if one was not measured."""
    pairs = zip(cell["rates"].get(name, []), cell["rates"].get(other, []), strict=False)
    ratios = [one / two for one, two in pairs]
    return statistics.median(ratios) if ratios else None


def best_bare(cell: Figures) -> str | None:
    """The fastest bare step, in eager mode or as a graph; a compiled step is a different program."""
    medians = {
        name: statistics.median(rates)
        for name, rates in cell["rates"].items()
        if name.startswith("bare") and not name.startswith(COMPILED)
    }
    return max(medians, key=medians.__getitem__) if medians else None


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _count(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"
