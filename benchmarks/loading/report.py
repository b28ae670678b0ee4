"""The report of the loaders: a table for each case, and the targets."""

from benchmarks.loading.cases import BATCH, CASES
from benchmarks.loading.contestants import CONTESTANTS, IDLE
from benchmarks.report import Target, at_least, rate_text, ratio_text, spread_text, targets_table
from benchmarks.results import Results

PACKAGES = ("torch", "torchvision", "pylance", "numpy", "pillow", "opencv-python-headless", "simplejpeg")
PEER_PACKAGES = ("ffcv", "webdataset", "datasets", "mosaicml-streaming", "litdata", "lancedb", "spdl")
_MIB = 2**20
_NAMES = {"png": "PNG", "jpeg": "JPEG", "large": "Large"}
_CACHES = {"png": "cached", "jpeg": "cached256", "large": "cached256"}


def loader_section(results: Results, picture: str) -> str:
    """The section in Markdown; ``picture`` is the chart's path relative to the page."""
    machine = "\n".join(f"| {title} | {text} |" for title, text in results.machine.items())
    rounds = max((len(runs) for names in results.runs.values() for runs in names.values()), default=0)
    tables = "\n\n".join(
        f"### {results.counts[case]:,} {CASES[case].title}\n\n{case_table(results, case)}" for case in results.runs
    )
    return f"""## Batches for training

`{results.command}`

{results.date}: every loader gives the same: shuffled batches of {BATCH} as float32 tensors, flipped at random and
normalised, with their labels. What it reads is written before, unmeasured, and lies in the page cache. Each figure is
the median of {rounds} rounds with the least and the greatest; in a round every loader runs once, in a process of its
own: an epoch to warm up, then the timed ones (see the commands), of which the median counts. Ratios are taken within a
round; the table has their median. Peers have 2 workers or threads where nothing else is said.

| machine | |
|---|---|
{machine}

![Images per second of each loader]({picture})

{tables}

Memory is the greatest resident memory of all processes together, above that of a process that has imported torch.
Pages of mapped files and pages that forked processes share count, the latter once for each process. The first batch is
timed from the opening of the loader, imports not included; the time of a second process that finds the cache filled is
told after it. The bounds keep all files in memory, and do no more than their name says.

{targets_table(loader_targets(results))}
"""


def case_table(results: Results, case: str) -> str:
    """The table of all loaders in one case, without the idle process."""
    cache = _CACHES[case]
    head = f"| {case} | images/s | streamed ÷ it | {cache} ÷ it | memory above idle | first batch, s |"
    lines = [head, "|---|--:|--:|--:|--:|--:|"]
    for name, contestant in CONTESTANTS.items():
        if name == IDLE or name not in results.runs.get(case, {}):
            continue
        mark = {"ours": "**", "bound": "*"}.get(contestant.role, "")
        lines.append(f"| {mark}{contestant.title}{mark} |{_cells(results, case, name, cache)}")
    return "\n".join(lines)


def loader_targets(results: Results) -> list[Target]:
    """All targets of the loader, with the results."""
    return [
        at_least(results, "png", "cached", "article", 100, "PNG, cached: at least 100 times the article's way"),
        at_least(results, "png", "cached", "ffcv", 3, "PNG, cached: at least 3 times FFCV"),
        _over_best(results, "png", "cached", _peers("png") - {"ffcv"}, 30, "PNG, cached: 30 times every other peer"),
        at_least(results, "png", "streamed", "article", 8, "PNG, streamed: at least 8 times the article's way"),
        _over_best(
            results, "png", "streamed", _decoding("png"), 3, "PNG, streamed: 3 times every peer that decodes files"
        ),
        at_least(results, "png", "deleted", "streamed", 0.95, "PNG, streamed: with deleted rows as fast as without"),
        at_least(results, "jpeg", "streamed", "imagefolder2", 3.5, "JPEG, streamed: at least 3.5 times ImageFolder"),
        at_least(results, "jpeg", "streamed", "ffcv", 2.5, "JPEG, streamed: at least 2.5 times FFCV"),
        _over_best(results, "jpeg", "streamed", _decoding("jpeg"), 1, "JPEG, streamed: ahead of every peer"),
        at_least(results, "jpeg", "streamed", "kernel", 0.85, "JPEG, streamed: at least 0.85 of its kernel alone"),
        at_least(results, "jpeg", "cached256", "streamed", 3, "JPEG, cached at 256: at least 3 times streamed"),
        at_least(results, "jpeg", "cached256", "ffcv256", 1, "JPEG, cached at 256: ahead of FFCV with pixels at 256"),
        at_least(results, "large", "streamed", "imagefolder2", 2, "Large, streamed: at least twice ImageFolder"),
        at_least(results, "large", "streamed", "decode", 1, "Large, streamed: ahead of decoding whole images"),
        *(_memory_target(results, case) for case in CASES),
        _first_target(results, "streamed", "first", "PNG, streamed: the first batch within 0.5 s"),
        _first_target(results, "cached", "reopened", "PNG, warm cache: the first batch within 0.5 s"),
    ]


def _cells(results: Results, case: str, name: str, cache: str) -> str:
    if results.rate(case, name) is None:
        return f" {results.error(case, name)} | | | | |"
    ratios = [ratio_text(results, case, ours, name) for ours in ("streamed", cache)]
    memory = above_idle(results, case, name)
    above = "" if memory is None or CONTESTANTS[name].role == "bound" else f"{memory / _MIB:,.0f} MiB"
    return f" {' | '.join([rate_text(results, case, name), *ratios, above, _first(results, case, name)])} |"


def above_idle(results: Results, case: str, name: str) -> float | None:
    """The peak memory of all rounds above the median of the idle process, in bytes."""
    peak, idle = results.peak(case, name), results.numbers(case, IDLE, "peak")
    return None if peak is None or idle is None else max(peak - idle.median, 0)


def _first(results: Results, case: str, name: str) -> str:
    if CONTESTANTS[name].role == "bound":
        return ""
    first, again = results.numbers(case, name, "first"), results.numbers(case, name, "reopened")
    text = spread_text(first, "{:.2f}") if first else ""
    return text + (f"; warm {spread_text(again, '{:.2f}')}" if again else "")


def _peers(case: str) -> set[str]:
    """The contestants except the article's loader and ours."""
    return {
        name for name, one in CONTESTANTS.items() if one.role == "peer" and one.data != "article" and case in one.cases
    }


def _decoding(case: str) -> set[str]:
    """The peers that decode images in every epoch; FFCV stores small PNG as pixels."""
    kept = {"ffcv"} if case == "png" else set[str]()
    return {name for name in _peers(case) if CONTESTANTS[name].decodes} - kept


def _over_best(results: Results, case: str, name: str, others: set[str], least: float, text: str) -> Target:
    ratios = {other: results.ratio(case, name, other) for other in others}
    medians = {other: ratio.median for other, ratio in ratios.items() if ratio}
    if not medians:
        return Target(text, "", None)
    best = min(medians, key=medians.__getitem__)
    kept = medians[best] >= least if least != 1 else medians[best] > 1
    # A peer that failed may have been the fastest.
    return Target(
        text,
        f"{medians[best]:.2f} times {CONTESTANTS[best].title}",
        None if kept and len(medians) < len(others) else kept,
    )


def _memory_target(results: Results, case: str) -> Target:
    memory = above_idle(results, case, "streamed")
    text = f"{_NAMES[case]}, streamed: at most 500 MB above an idle process"
    return Target(
        text, "" if memory is None else f"{memory / 1e6:,.0f} MB", None if memory is None else memory <= 500e6
    )


def _first_target(results: Results, name: str, what: str, text: str) -> Target:
    first = results.numbers("png", name, what)
    return Target(text, f"{first.median:.2f} s" if first else "", first.median <= 0.5 if first else None)
