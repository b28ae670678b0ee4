import shutil

import pytest
import torch

from lance_pipeline.errors import InputError, Stopped
from lance_pipeline.images import ImageLoader, LanceSplit
from lance_pipeline.imaging.channels import ChannelSums
from lance_pipeline.training.callbacks import TrainingCallbacks
from lance_pipeline.training.checkpoint import Checkpoints
from lance_pipeline.training.device import choose_device
from lance_pipeline.training.fit import fit_network
from lance_pipeline.training.inputs import TrainingInputs
from lance_pipeline.training.recipe import Recipe
from lance_pipeline.training.scores import evaluate
from lance_pipeline.training.weights import load_model, save_model
from lance_pipeline_tests.image_folders import ingest_folder, write_image_folder

CPU = choose_device("cpu")


def fit(splits, recipe: Recipe, image_size: int = 32):
    return fit_network(TrainingInputs(splits["train"], splits["val"], recipe, image_size), CPU)


@pytest.fixture(scope="module")
def fitted(splits):
    return fit(splits, Recipe(epochs=2, batch_size=8))


def test_a_stop_after_the_last_epoch_says_what_was_saved(splits, tmp_path):
    epochs, told = [], []
    callbacks = TrainingCallbacks(
        on_epoch=epochs.append, log_line=told.append, stop=lambda: "SIGINT" if epochs else None
    )
    inputs = TrainingInputs(splits["train"], splits["val"], Recipe(epochs=1, batch_size=8), 32)
    with Checkpoints(tmp_path, "training", {}) as checkpoints, pytest.raises(Stopped):
        fit_network(inputs, CPU, checkpoints=checkpoints, callbacks=callbacks)
    assert told[-1].startswith("Saved after epoch 1 of 1. ")
    assert (tmp_path / "checkpoint.pt").exists()


def test_the_card_tells_how_to_use_the_weights(splits, fitted):
    _, card = fitted
    sums = ChannelSums.model_validate(splits["train"].facts["channels"])
    assert (card.classes, card.stem, card.image_size, card.fit) == (["cat", "dog"], "imagenet", 32, "crop")
    assert (card.mean, card.std) == (sums.mean(), sums.std())


def test_the_saved_model_repeats_the_best_epoch(splits, fitted, tmp_path):
    trained, card = fitted
    model, card = load_model(tmp_path, save_model(tmp_path, trained.state, card))
    val = ImageLoader(
        splits["val"].uri, batch_size=8, image_size=32, training=False, fit=card.fit, normalize=(card.mean, card.std)
    )
    validation = evaluate(model, val, CPU)
    assert validation.accuracy == trained.best.val_accuracy == max(epoch.val_accuracy for epoch in trained.history)
    assert validation.loss == pytest.approx(trained.best.val_loss, rel=1e-5)


def test_the_same_seed_gives_bitwise_equal_weights(splits, fitted):
    trained, _ = fitted
    torch.manual_seed(12345)
    again, _ = fit(splits, Recipe(epochs=2, batch_size=8))
    assert [key for key in trained.state if not torch.equal(trained.state[key], again.state[key])] == []
    assert [epoch.val_loss for epoch in again.history] == [epoch.val_loss for epoch in trained.history]


def test_the_recipes_normalisation_wins(splits):
    recipe = Recipe(epochs=1, batch_size=16, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), fit="squash", stem="small")
    _, card = fit(splits, recipe, image_size=8)
    assert (card.mean, card.std, card.fit, card.stem) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "squash", "small")


def test_the_versions_of_the_splits_are_the_ones_trained_on(tmp_path):
    root = write_image_folder(tmp_path / "root", {s: {"cat": 2, "dog": 2} for s in ("train", "val")})
    splits = {split: LanceSplit(uri) for split, uri in ingest_folder(root, tmp_path / "lance").items()}
    shutil.rmtree(tmp_path / "root" / "train" / "cat")
    write_image_folder(root, {"train": {"fox": 2}})
    ingest_folder(root, tmp_path / "lance")
    assert LanceSplit(splits["train"].uri).classes == ["dog", "fox"]
    _, card = fit(splits, Recipe(epochs=1, batch_size=4))
    assert card.classes == ["cat", "dog"]


def test_a_class_of_val_that_train_lacks(splits, tmp_path):
    root = write_image_folder(tmp_path / "root", {"val": {"cat": 2, "wolf": 2}})
    val = LanceSplit(ingest_folder(root, tmp_path / "lance")["val"])
    with pytest.raises(InputError, match=r"\['wolf'\]"):
        fit({"train": splits["train"], "val": val}, Recipe(epochs=1))
