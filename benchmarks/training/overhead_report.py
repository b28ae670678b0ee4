"""The report of the overhead around a training: Markdown tables, and a section of a page."""

from collections.abc import Mapping, Sequence

from benchmarks.report import Target, spread_text, targets_table
from benchmarks.results import Results, Spread
from benchmarks.training.timed import PARTS, longer, more, part, timed_runs

STAGES = {
    "bare": "plain loop, batches in memory",
    "kept": "the same, keeping freed memory as ours does",
    "loop": "our loop and loader",
    "saved": "and a checkpoint after each epoch",
    "asset": "**the asset, with Dagster and MLflow**",
}
WHOLE = {
    "plain": "one plain process",
    "shell": "**`dagster asset materialize`**",
    "spawn": "the same without the fork server",
}
_HOW = """every run in a process of its own, in turn; who begins changes from round to round. Figures are medians
with the least and the greatest; ratios and differences are taken within a round."""
_LONGER, _WAITING, _MORE = 1.03, 0.02, 25.0


def overhead_targets(results: Results) -> list[Target]:
    """All targets, with the results."""
    ratio, waiting = longer(results, "stages", "asset", "bare"), part(results, "stages", "asset", "data_wait")
    seconds = more(results, "whole", "shell", "plain")
    return [
        _at_most(ratio, _LONGER, f"the asset trains at most {_LONGER - 1:.0%} longer than the plain loop", "{:.3f}"),
        _at_most(waiting, _WAITING, f"at most {_WAITING:.0%} of the time waits for data", "{:.1%}"),
        _at_most(
            seconds, _MORE, f"the whole run of digits takes at most {_MORE:.0f} s more from the shell", "{:.1f} s"
        ),
    ]


def stages_table(results: Results) -> str:
    """The table of the training, from the bare loop to the asset; empty if it was not measured."""
    if "stages" not in results.runs:
        return ""
    lines = [
        "| | seconds | ÷ plain loop | seconds more in an epoch | epochs alone ÷ plain loop |",
        "|---|--:|--:|--:|--:|",
    ]
    for name, title in STAGES.items():
        if name in results.runs.get("stages", {}):
            cells = [
                _text(results.seconds("stages", name), "{:.2f}") or results.error("stages", name),
                _text(longer(results, "stages", name, "bare"), "{:.3f}"),
                _text(_an_epoch(results, name), "{:.2f}"),
                _text(longer(results, "stages", name, "bare", "epochs"), "{:.3f}"),
            ]
            lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def whole_table(results: Results) -> str:
    """The table of the whole run, with the median of each part; empty if it was not measured."""
    if "whole" not in results.runs:
        return ""
    parts = ("start", "ingest", "training", "besides epochs", "evaluation", "end")
    lines = [f"| digits | seconds | more | {' | '.join(parts)} |", "|---|" + "--:|" * (len(parts) + 2)]
    for name, title in WHOLE.items():
        if name in results.runs.get("whole", {}):
            medians = {which: _median(part(results, "whole", name, which)) for which in (*PARTS, "epochs")}
            medians["besides epochs"] = medians["training"] - medians["epochs"]
            cells = [
                _text(results.seconds("whole", name), "{:.1f}") or results.error("whole", name),
                _text(more(results, "whole", name, "plain"), "{:.1f}"),
                *(f"{medians[which]:.1f}" for which in parts),
            ]
            lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def overhead_section(results: Results) -> str:
    """The section in Markdown."""
    machine = "\n".join(f"| {title} | {text} |" for title, text in results.machine.items())
    parts = [
        f"## What surrounds a training\n\n`{results.command}`",
        f"{results.date}: {_HOW}",
        f"| machine | |\n|---|---|\n{machine}",
        *_stages_part(results),
        *_whole_part(results),
        targets_table(overhead_targets(results)),
    ]
    return "\n\n".join(parts)


def _stages_part(results: Results) -> list[str]:
    runs = results.runs.get("stages")
    if not runs:
        return []
    about = f"""### The training

ResNet-34 on {_images(results):,} images of 32x32 for {results.counts["epochs"]} epochs, by the default recipe but for
their number, in {_rounds(runs)} rounds. The plain loop takes the very same steps, on batches that were made before. All
times count from the beginning of the first epoch, validation included, until the last checkpoint is on the disk;
interpreter, imports and the building of the model do not count. Epochs alone are without what lies between them."""
    return [about, stages_table(results), _costs(results)]


def _whole_part(results: Results) -> list[str]:
    runs = results.runs.get("whole")
    if not runs:
        return []
    about = f"""### The whole run

`group:digits` from the shell, in a new data folder, beside the functions that its assets call in one plain process
(ingest, training, evaluation, no Dagster and no MLflow), from the start of the process to its end, in {_rounds(runs)}
rounds. A part ends when the last of its steps ends, and has the start of their processes and their imports in it; a
plain process imports all at its start."""
    return [about, whole_table(results)]


def _rounds(runs: Mapping[str, Sequence[object]]) -> int:
    return max(map(len, runs.values()))


def _costs(results: Results) -> str:
    """Sentences that explain the table of the stages."""
    told: list[str] = []
    losses = {run.parts["loss"] for name in STAGES for run in timed_runs(results, "stages", name)}
    if len(losses) == 1:
        told.append("All end with the same validation loss, bit for bit.")
    size = part(results, "stages", "saved", "checkpoint")
    copy, write = (part(results, "stages", "saved", which) for which in ("snapshot", "write"))
    if size and copy and write:
        told.append(
            f"A checkpoint has {size.median / 1e6:,.0f} MB: copying it takes {copy.median:.2f} s of the training, "
            f"writing it another {write.median:.2f} s in a thread beside the next epoch; after the last epoch the "
            "training waits for it."
        )
    added = _an_epoch(results, "asset")
    if added and added.median > 0:
        told.append(
            f"An epoch of the asset takes {added.median:.2f} s more than one of the plain loop. If that "
            f"is the same in longer epochs, it is at most {_LONGER - 1:.0%} of those that last "
            f"{added.median / (_LONGER - 1):.0f} s or more."
        )
    waiting = part(results, "stages", "asset", "data_wait")
    if waiting:
        told.append(f"{waiting.median:.1%} of its epochs wait for data.")
    step, seconds = part(results, "stages", "asset", "step"), results.seconds("stages", "asset")
    if step and seconds:
        told.append(
            f"Its step takes {step.median - seconds.median:.1f} s besides the training: imports, MLflow's run, the "
            "model built, exported and logged."
        )
    return "\n".join(f"- {one}" for one in told)


def _an_epoch(results: Results, name: str) -> Spread | None:
    """Additional seconds per epoch compared with the plain loop."""
    found, epochs = more(results, "stages", name, "bare"), results.counts["epochs"]
    return found and Spread(found.median / epochs, found.low / epochs, found.high / epochs)


def _images(results: Results) -> int:
    """The number of images in the train split."""
    return next((run.images // results.counts["epochs"] for run in timed_runs(results, "stages", "bare")), 0)


def _at_most(measured: Spread | None, most: float, text: str, form: str) -> Target:
    return Target(text, _text(measured, form), measured.median <= most if measured else None)


def _text(spread: Spread | None, form: str) -> str:
    return spread_text(spread, form) if spread else ""


def _median(spread: Spread | None) -> float:
    return spread.median if spread else 0.0
