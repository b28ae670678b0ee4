"""The gallery of mistakes: selection, order and images."""

import numpy as np
import pytest

from lance_pipeline.evaluation.mistakes import common_confusions, confident_mistakes
from lance_pipeline.evaluation.prediction import write_predictions
from lance_pipeline_tests.evaluation.chances import predictions_of

CLASSES = ["cat", "dog", "fox"]


@pytest.fixture
def stored(splits, tmp_path):
    """Predictions for a split, some of them wrong with different confidences."""
    split = splits["train"]
    labels = np.array([CLASSES.index(label) for label in split.to_pandas()["label"]])
    probabilities = np.zeros((len(split), 3), np.float32)
    probabilities[np.arange(len(split)), labels] = 1
    for row, confidence in {3: 0.6, 7: 0.9, 11: 0.75}.items():
        probabilities[row] = 0
        probabilities[row, [2, labels[row]]] = confidence, 1 - confidence
    table = write_predictions(
        str(tmp_path / "p.lance"), predictions_of(labels.tolist(), probabilities), split.paths(), CLASSES, {}
    )
    return split, table


def test_the_most_confident_come_first_with_their_images(stored):
    split, table = stored
    found = confident_mistakes(table.uri, table.version, split, 2)
    assert [one.sample.row for one in found] == [7, 11]
    assert [round(one.probability, 2) for one in found] == [0.9, 0.75]
    assert {one.predicted for one in found} == {"fox"}
    paths = split.paths()
    for one in found:
        assert one.sample.path == paths[one.sample.row]
        assert one.label == one.sample.label == one.sample.path.split("/")[0]
        colour = np.asarray(one.sample.image).mean(axis=(0, 1))
        assert int(colour.argmax()) == CLASSES.index(one.label)
    assert len(confident_mistakes(table.uri, table.version, split, 10)) == 3


def test_a_model_without_mistakes_has_none(splits, tmp_path):
    split = splits["val"]
    labels = np.array([CLASSES.index(label) for label in split.to_pandas()["label"]])
    predictions = predictions_of(labels.tolist(), np.eye(3)[labels])
    table = write_predictions(str(tmp_path / "p.lance"), predictions, split.paths(), CLASSES, {})
    assert confident_mistakes(table.uri, table.version, split, 10) == []


def test_pairs_are_confused_as_often_as_the_matrix_says():
    confusion = [[9, 0, 2], [5, 1, 0], [0, 0, 7]]
    assert common_confusions(confusion, CLASSES, 5) == [("dog", "cat", 5), ("cat", "fox", 2)]
    assert common_confusions(confusion, CLASSES, 1) == [("dog", "cat", 5)]
    assert common_confusions([[3]], ["cat"], 5) == []
