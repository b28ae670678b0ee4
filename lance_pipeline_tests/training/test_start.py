"""The weights that `weights: auto` selects, and the reason given for them."""

from pathlib import Path

import pytest
import torch
from torchvision.models import resnet34

from lance_pipeline.images import LanceSplit, ingest_split
from lance_pipeline.training.callbacks import TrainingCallbacks
from lance_pipeline.training.device import choose_device
from lance_pipeline.training.fit import fit_network
from lance_pipeline.training.inputs import TrainingInputs
from lance_pipeline.training.recipe import Recipe
from lance_pipeline.training.start import Start, settled_start
from lance_pipeline_tests.image_folders import write_image_folder
from lance_pipeline_tests.quality.small_splits import noise, small_split

FILE = "resnet34-b627a593.pth"
AUTO = Recipe()


def photos(tmp_path: Path, side: int = 80) -> LanceSplit:
    sizes = [(side, side + 40), (side + 1, 500), (10, 10)]
    return small_split(tmp_path, f"train{side}", [("cat", f"{n}.png", noise(n, size)) for n, size in enumerate(sizes)])


@pytest.fixture
def downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder that contains the weights, as far as torchvision can log_line."""
    folder = tmp_path / "downloads"
    folder.mkdir()
    torch.save(resnet34(weights=None).state_dict(), folder / FILE)
    return str(folder)


def start(split: LanceSplit, recipe: Recipe = AUTO, image_size: int = 64, downloads: str | None = None) -> Start:
    return settled_start(TrainingInputs(split, split, recipe, image_size), "cpu", downloads)


def test_photos_begin_with_trained_weights_where_they_can_be_had(tmp_path, downloads):
    found = start(photos(tmp_path), downloads=downloads)
    assert (found.recipe.weights, found.recipe.learning_rate, found.second_best) == ("imagenet", 0.01, False)
    assert (found.recipe.freeze_epochs, found.recipe.resized_crop) == (1, (0.35, 1.0))
    assert "80 pixels" in found.reason


def test_where_they_cannot_be_had_it_says_why_and_goes_without(tmp_path):
    nowhere = tmp_path / "a file"
    nowhere.write_text("")
    found = start(photos(tmp_path), downloads=str(nowhere))
    assert (found.recipe.weights, found.recipe.learning_rate, found.second_best) == ("none", 0.05, True)
    assert found.recipe.resized_crop is None
    assert FILE in found.reason


@pytest.mark.parametrize(("side", "image_size"), [(63, 224), (80, 32), (63, 32)])
def test_small_images_begin_with_random_weights(tmp_path, downloads, side, image_size):
    found = start(photos(tmp_path, side), image_size=image_size, downloads=downloads)
    assert (found.recipe.weights, found.second_best) == ("none", False)
    assert ("image_size" in found.reason) == (side > 64)


@pytest.mark.parametrize("weights", ["none", "imagenet"])
def test_what_is_given_is_taken(tmp_path, weights):
    found = start(photos(tmp_path), Recipe(weights=weights))
    assert (found.recipe.weights, found.reason) == (weights, f"{weights}, as configured")


@pytest.mark.parametrize("weights", ["none", "imagenet"])
def test_an_interrupted_training_resumes_as_it_began(tmp_path, downloads, weights):
    split = photos(tmp_path)
    found = settled_start(
        TrainingInputs(split, split, AUTO, 64),
        "cpu",
        downloads if weights == "none" else str(tmp_path / "away"),
        resumable=lambda recipe: recipe.weights == weights,
    )
    assert found.recipe.weights == weights


def test_a_training_without_dagster_says_it_too(tmp_path):
    root = write_image_folder(tmp_path / "raw", {"train": {"cat": 4, "dog": 4}, "val": {"cat": 2, "dog": 2}})
    train, val = (str(tmp_path / f"{split}.lance") for split in ("train", "val"))
    for split, uri in (("train", train), ("val", val)):
        ingest_split(root, split, uri)
    lines: list[str] = []
    recipe, callbacks = Recipe(epochs=1, batch_size=4), TrainingCallbacks(log_line=lines.append)
    fit_network(
        TrainingInputs(LanceSplit(train), LanceSplit(val), recipe, 32), choose_device("cpu"), callbacks=callbacks
    )
    assert any(line.startswith("weights: random") for line in lines)
