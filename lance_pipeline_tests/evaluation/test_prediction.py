import numpy as np
import pytest
import torch

from lance_pipeline.errors import InputError
from lance_pipeline.evaluation.metrics import classification_metrics
from lance_pipeline.evaluation.prediction import predict, write_predictions
from lance_pipeline.images import ImageLoader, LanceSplit
from lance_pipeline.storage.facts import read_facts
from lance_pipeline.storage.tables import open_table
from lance_pipeline.training.device import choose_device
from lance_pipeline.training.model import build_network
from lance_pipeline.training.scores import evaluate
from lance_pipeline_tests.evaluation.chances import predictions_of

CPU = choose_device("cpu")
MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.3, 0.35)


def loader(split: LanceSplit, batch_size: int = 5, normalize=(MEAN, STD)) -> ImageLoader:
    return ImageLoader(split.uri, batch_size=batch_size, image_size=32, training=False, normalize=normalize)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_network("resnet34", 2, "imagenet")


@pytest.fixture(scope="module")
def predictions(model, splits):
    return predict(model, loader(splits["train"]), CPU)


def test_predictions_are_in_the_order_of_the_rows(model, splits, predictions):
    split = splits["train"]
    assert predictions.labels.tolist() == [split.classes.index(label) for label in split.to_pandas()["label"]]
    images = torch.cat([images for images, _ in loader(split, normalize=None)])
    inputs = (images / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    with torch.inference_mode():
        expected = model.eval()(inputs).softmax(dim=1).numpy()
    assert np.allclose(predictions.probabilities, expected, atol=1e-4)
    assert predictions.predicted.tolist() == expected.argmax(axis=1).tolist()


def test_probabilities_are_distributions(predictions):
    assert predictions.probabilities.shape == (16, 2)
    assert predictions.probabilities.dtype == np.float32
    assert predictions.probabilities.min() >= 0
    assert np.allclose(predictions.probabilities.sum(axis=1), 1, atol=1e-5)


def test_a_model_in_training_mode_predicts_the_same(model, splits, predictions):
    again = predict(model.train(), loader(splits["train"], batch_size=16), CPU)
    assert np.allclose(again.probabilities, predictions.probabilities, atol=1e-5)


def test_metrics_agree_with_the_training_loops(model, splits, predictions):
    metrics = classification_metrics(predictions, splits["train"].classes)
    validation = evaluate(model, loader(splits["train"]), CPU)
    assert vars(validation) == pytest.approx({name: metrics.scalars()[name] for name in vars(validation)}, rel=1e-6)


def test_the_dataset_of_predictions(splits, predictions, tmp_path):
    split, uri = splits["train"], str(tmp_path / "predictions.lance")
    paths = split.to_pandas()["path"].tolist()
    dataset = write_predictions(uri, predictions, paths, split.classes, {"split": "train"})
    assert dataset.version == 1
    table = open_table(uri).to_table()
    assert table.schema.names == ["path", "label", "predicted", "correct", "probabilities"]
    assert read_facts(open_table(uri)) == {"split": "train", "classes": ["cat", "dog"]}
    assert table["path"].to_pylist() == paths
    assert table["label"].to_pylist() == split.to_pandas()["label"].tolist()
    for row in table.to_pylist():
        assert row["predicted"] == split.classes[int(np.argmax(row["probabilities"]))]
        assert row["correct"] == (row["label"] == row["predicted"])
        assert sum(row["probabilities"]) == pytest.approx(1, abs=1e-5)
        assert row["label"] == row["path"].split("/")[0]


def test_probabilities_stay_with_their_rows(tmp_path):
    chances = np.array([[0.1, 0.2, 0.7], [0.5, 0.3, 0.2]], np.float32)
    uri = str(tmp_path / "predictions.lance")
    dataset = write_predictions(uri, predictions_of([2, 1], chances), ["c/1.png", "b/1.png"], list("abc"), {})
    rows = dataset.to_table().to_pylist()
    assert [(row["label"], row["predicted"], row["correct"]) for row in rows] == [("c", "c", True), ("b", "a", False)]
    assert [row["probabilities"] for row in rows] == [pytest.approx([0.1, 0.2, 0.7]), pytest.approx([0.5, 0.3, 0.2])]


def test_writing_again_makes_a_new_version(predictions, tmp_path):
    uri = str(tmp_path / "predictions.lance")
    paths = [str(number) for number in range(16)]
    versions = [write_predictions(uri, predictions, paths, ["cat", "dog"], {}).version for _ in range(2)]
    assert versions == [1, 2]
    assert open_table(uri).count_rows() == 16


def test_unwritable(predictions, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"\.lance"):
        write_predictions(str(tmp_path / "file" / "x.lance"), predictions, ["x"] * 16, ["cat", "dog"], {})
