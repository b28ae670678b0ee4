"""The performance targets of the pipeline on a GPU, and whether they were met."""

import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.gpu.report import best_bare, cell_title, ratio
from benchmarks.gpu.runner import Part
from benchmarks.report import Target

Figures = dict[str, Any]
_EPOCHS, _SECONDS = 16, 240
_MOST_WAITING = {"32 px": 0.01, "photos": 0.02}


def targets(parts: Mapping[str, Part]) -> list[Target]:
    """All targets, including those that were not measured."""
    figures = {name: part.figures for name, part in parts.items()}
    step, pipeline = figures.get("step", {}), figures.get("pipeline", {})
    return [
        *_same_bits(figures.get("tests", {}), figures.get("digits", {})),
        *_step_targets(step.get("cells", [])),
        *_loader_targets(pipeline),
        *_training_targets(pipeline),
        _whole_target(pipeline.get("run")),
    ]


def _same_bits(tests: Figures, digits: Figures) -> list[Target]:
    found = {
        "one seed, two trainings: equal weights": tests.get("repeated", {}).get("equal"),
        "reproduce: the same, bit for bit": digits.get("reproduced", {}).get("same"),
    }
    words = {True: "equal", False: "different", None: ""}
    return [Target(text, words[equal], equal) for text, equal in found.items()]


def _step_targets(cells: Iterable[Figures]) -> list[Target]:
    """The targets of each cell; cells that ran only compiled have no deterministic step."""
    found: list[Target] = []
    for cell in cells:
        eager, best = "bare eager, deterministic", best_bare(cell)
        if eager not in cell["rates"] or best is None:
            continue
        own = "ours eager, deterministic" if "ours eager, deterministic" in cell["rates"] else "ours, deterministic"
        title = cell_title(cell)
        found += [
            _at_least(f"{title}: {own} ≥ 0.97 of {eager}", ratio(cell, own, eager), 0.97),
            _at_least(f"{title}: ours by default ≥ 0.90 of {best}", ratio(cell, "ours, deterministic", best), 0.90),
        ]
    if not found:
        found = [_at_least("our step ≥ 0.97 of a bare one, and ≥ 0.90 of the best", None, 0.97)]
    return found


def _loader_targets(pipeline: Figures) -> list[Target]:
    """The targets of the loader with its cache, the default."""
    found: list[Target] = []
    for kind, title in (("png", "32 px"), ("jpeg", "photos")):
        rate = pipeline.get("loader", {}).get(f"{kind} cached", {}).get("rate")
        step = pipeline.get("own_step", {}).get(kind)
        times = rate / step if rate and step else None
        found.append(_at_least(f"{title}: cached loader ≥ 3 times what our step takes", times, 3))
    return found


def _training_targets(pipeline: Figures) -> list[Target]:
    """The targets of training; the first epoch, which fills the cache and warms up the step, is left out."""
    found: list[Target] = []
    for name, kind, title in (("run", "png", "32 px"), ("photo_training", "jpeg", "photos")):
        epochs = pipeline.get(name, {}).get("epochs", [])
        epochs = epochs[1:] or epochs
        most = _MOST_WAITING[title]
        waited = max((epoch["data_wait"] for epoch in epochs), default=None)
        text = f"{title}: training waits for data ≤ {most:.0%}, after the first epoch"
        found.append(Target(text, _share(waited), None if waited is None else waited <= most))
        step = pipeline.get("own_step", {}).get(kind)
        rates = [epoch["images_per_second"] for epoch in epochs]
        share = statistics.median(rates) / step if rates and step else None
        found.append(_at_least(f"{title}: training ≥ 0.95 of our step alone, after the first epoch", share, 0.95))
    return found


def _whole_target(run: Figures | None) -> Target:
    """The target from folder to metrics; epochs that were not run are counted like the last ones."""
    text = f"{_EPOCHS} epochs, from folder to metrics ≤ {_SECONDS} s"
    if run is None:
        return Target(f"90,000 images, {text}", "", None)
    first, *rest = (epoch["seconds"] for epoch in run["epochs"])
    missing = _EPOCHS - 1 - len(rest)
    seconds = run["seconds"] + missing * (statistics.median(rest) if rest else first)
    how = f"extrapolated from {1 + len(rest)} epochs" if missing else "run"
    return Target(f"{run['images']:,} images, {text}", f"{seconds:.0f} s ({how})", seconds <= _SECONDS)


def _at_least(text: str, measured: float | None, least: float) -> Target:
    return Target(text, "" if measured is None else f"{measured:.3f}", None if measured is None else measured >= least)


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"
