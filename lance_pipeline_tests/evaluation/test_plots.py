import io

import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image

from lance_pipeline.evaluation.metrics import classification_metrics
from lance_pipeline.evaluation.plots import confusion_figure, confusion_picture, learning_curve, learning_curve_figure
from lance_pipeline.training.history import Epoch
from lance_pipeline_tests.evaluation.chances import predictions_of


def metrics_of(labels, predicted, classes: list[str]):
    return classification_metrics(predictions_of(labels, np.eye(len(classes))[np.array(predicted)]), classes)


def matrix(labels, predicted, classes: list[str]) -> tuple[Axes, np.ndarray]:
    """The axes of a confusion matrix, and the values behind its colours."""
    axes = confusion_figure(metrics_of(labels, predicted, classes), "test").axes[0]
    (image,) = axes.images
    return axes, np.asarray(image.get_array())


def as_png(data: bytes) -> Image.Image:
    assert len(data) < 100_000
    image = Image.open(io.BytesIO(data))
    assert image.format == "PNG"
    return image


@pytest.mark.parametrize("classes", [2, 30, 31])
def test_any_number_of_classes_is_drawn(classes: int):
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(0, classes, (2, 40 * classes))
    metrics = metrics_of(labels.tolist(), predicted, [f"class {number}" for number in range(classes)])
    image = as_png(confusion_picture(metrics, "test"))
    assert len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 20


def test_colours_stand_for_shares_of_the_true_class():
    axes, shares = matrix([0] * 10 + [1] * 4, [0] * 9 + [1] * 2 + [0] * 3, ["cat", "dog"])
    assert shares.tolist() == [[0.9, 0.1], [0.75, 0.25]]
    (image,) = axes.images
    assert image.get_clim() == (0, 1)
    # Each cell shows the number of images, at (predicted, true).
    written = {text.get_position(): text.get_text() for text in axes.texts}
    assert written == {(0, 0): "9", (1, 0): "1", (0, 1): "3", (1, 1): "1"}
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "true")


def test_a_class_without_images_has_a_row_of_zeros():
    axes, shares = matrix([0, 1], [0, 2], ["cat", "dog", "fox"])
    assert shares.tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 0]]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["cat", "dog", "fox"]


def test_numbers_and_names_are_left_out_where_they_would_run_into_each_other():
    axes, _ = matrix(list(range(31)), list(range(31)), [f"class {number}" for number in range(31)])
    assert not axes.texts
    assert "class 0" not in [tick.get_text() for tick in axes.get_xticklabels()]


@pytest.mark.parametrize("name", ["a$_x_$", "$\\foo$", "x" * 300, "\x1b[31m"])
def test_names_are_shown_and_not_obeyed(name: str):
    metrics = metrics_of([0, 1], [0, 1], [name, "b"])
    as_png(confusion_picture(metrics, name))
    assert next(tick.get_text() for tick in confusion_figure(metrics, name).axes[0].get_yticklabels()).startswith(
        name.replace("\x1b", "\\u{1b}")
    )


def epoch(number: int, train_loss: float, val_loss: float, accuracy: float, f1: float) -> Epoch:
    return Epoch(number, 3, train_loss, val_loss, accuracy, f1, 0.1, 2.0, 50.0, 0.0, 0.0, 0.0)


def test_the_learning_curve_shows_losses_scores_and_the_best_epoch():
    history = [epoch(1, 2.0, 2.2, 0.3, 0.2), epoch(2, 1.0, 1.1, 0.7, 0.6), epoch(3, 0.5, 1.4, 0.6, 0.55)]
    losses, scores = learning_curve_figure(history, history[1], "flowers").axes
    drawn = {line.get_label(): np.column_stack(line.get_data()).tolist() for line in (*losses.lines, *scores.lines)}
    assert drawn["train"] == [[1, 2.0], [2, 1.0], [3, 0.5]]
    assert drawn["val"] == [[1, 2.2], [2, 1.1], [3, 1.4]]
    assert drawn["val accuracy"] == [[1, 0.3], [2, 0.7], [3, 0.6]]
    assert drawn["val macro F1"] == [[1, 0.2], [2, 0.6], [3, 0.55]]
    assert [x for x, _ in drawn["best: epoch 2"]] == [2, 2]
    as_png(learning_curve(history, history[1], "flowers"))
