"""Pictures of a model's results, as PNG bytes."""

import numpy as np
from matplotlib.figure import Figure

from lance_pipeline.display import printable
from lance_pipeline.evaluation.metrics import ClassificationMetrics
from lance_pipeline.imaging.pictures import figure_png
from lance_pipeline.training.history import Epoch

# With more classes, numbers and names would overlap.
_LEGIBLE = 30


def confusion_picture(metrics: ClassificationMetrics, title: str) -> bytes:
    """A PNG of :func:`confusion_figure`."""
    return figure_png(confusion_figure(metrics, title))


def confusion_figure(metrics: ClassificationMetrics, title: str) -> Figure:
    """The confusion matrix, each row coloured by the share of its true class."""
    counts = np.array(metrics.confusion)
    names = [printable(one.label) for one in metrics.per_class]
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(3 + 0.45 * len(names), 11)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, label="share of the true class", shrink=0.8)
    axes.set(xlabel="predicted", ylabel="true")
    axes.set_title(title, parse_math=False)
    if len(names) <= _LEGIBLE:
        tilted = max(map(len, names)) > 2
        align = "right" if tilted else "center"
        axes.set_xticks(range(len(names)), names, rotation=45 * tilted, ha=align, parse_math=False)
        axes.set_yticks(range(len(names)), names, parse_math=False)
        for row, column in np.argwhere(counts):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour, fontsize=8)
    return figure


def learning_curve(history: list[Epoch], best: Epoch, title: str) -> bytes:
    """A PNG of :func:`learning_curve_figure`."""
    return figure_png(learning_curve_figure(history, best, title))


def learning_curve_figure(history: list[Epoch], best: Epoch, title: str) -> Figure:
    """Losses, validation accuracy and F1 over the epochs; the best epoch is marked."""
    numbers = [epoch.number for epoch in history]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    losses, scores = figure.subplots(1, 2)
    losses.plot(numbers, [epoch.train_loss for epoch in history], ".-", label="train")
    losses.plot(numbers, [epoch.val_loss for epoch in history], ".-", label="val")
    losses.set(ylabel="loss (nats)")
    scores.plot(numbers, [epoch.val_accuracy for epoch in history], ".-", label="val accuracy")
    scores.plot(numbers, [epoch.val_macro_f1 for epoch in history], ".-", label="val macro F1")
    for axes in (losses, scores):
        axes.axvline(best.number, color="grey", linewidth=1, linestyle=":", label=f"best: epoch {best.number}")
        axes.set(xlabel="epoch")
        axes.legend()
    figure.suptitle(title, parse_math=False)
    return figure
