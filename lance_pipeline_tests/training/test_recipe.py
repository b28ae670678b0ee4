from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lance_pipeline.training.recipe import IMAGENET_MEAN, IMAGENET_STD, Recipe

ARTICLE = {
    "preset": "article",
    "epochs": 50,
    "batches_per_epoch": 256,
    "batch_size": 64,
    "learning_rate": 1e-3,
    "momentum": 0.9,
    "schedule": "constant",
    "weight_decay": 0.0,
    "label_smoothing": 0.0,
    "flip": True,
    "crop_padding": 0,
    "fit": "squash",
    "mean": (0.4914, 0.4822, 0.4465),
    "std": (0.2023, 0.1994, 0.2010),
    "weights": "imagenet",
    "stem": "imagenet",
    "seed": 0,
    "gradient_clip": None,
    "averaging": 0.0,
    "class_weights": "none",
    "resized_crop": None,
    "crop_from": None,
    "randaugment": 0,
    "mixup": 0.0,
    "cutmix": 0.0,
    "freeze_epochs": 0,
    "best_by": "accuracy",
    "patience": None,
    "precision": "auto",
    "deterministic": True,
    "step": "auto",
}


def test_the_articles_recipe():
    assert Recipe(preset="article").model_dump() == ARTICLE


@pytest.mark.parametrize(
    "given",
    [
        {"epochs": 3},
        {"learning_rate": 0.5, "weights": "none"},
        {"batches_per_epoch": None},
        {"mean": None, "std": None},
    ],
)
def test_given_fields_win_over_the_preset(given):
    assert Recipe.model_validate({"preset": "article"} | given).model_dump() == ARTICLE | given


def test_without_a_preset_nothing_of_the_article_is_set():
    recipe = Recipe()
    assert (recipe.preset, recipe.schedule, recipe.weights, recipe.mean) == (None, "one_cycle", "auto", None)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"preset": "paper"}, "preset"),
        ({"epoch": 3}, "epoch"),
        ({"epochs": 0}, "epochs"),
        ({"batch_size": 1}, "batch_size"),
        ({"batches_per_epoch": 0}, "batches_per_epoch"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"momentum": 1.0}, "momentum"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
        ({"crop_padding": -1}, "crop_padding"),
        ({"seed": -1}, "seed"),
        ({"fit": "stretch"}, "fit"),
        ({"mean": (0.5, 0.5, 0.5)}, "both `mean` and `std`"),
        ({"std": (0.5, 0.5, 0.5)}, "both `mean` and `std`"),
        ({"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.0, 0.5)}, "above 0"),
        ({"mean": (123.7, 116.3, 103.5), "std": (58.4, 57.1, 57.4)}, "divide those of bytes by 255"),
        ({"epochs": "some"}, "epochs"),
        ({"resized_crop": (0.5, 0.2)}, "resized_crop"),
        ({"resized_crop": (0.0, 1.0)}, "resized_crop"),
        ({"crop_from": 64}, "`resized_crop`"),
        ({"averaging": 1.0}, "averaging"),
        ({"preset": "article", "mean": None}, "both `mean` and `std`"),
    ],
)
def test_wrong_fields_are_named(fields, message):
    with pytest.raises(ValidationError, match=message):
        Recipe.model_validate(fields)


def test_learning_rate_depends_on_the_weights_when_unset():
    assert Recipe().peak_learning_rate == 0.05
    assert Recipe(weights="imagenet").peak_learning_rate == 0.01
    assert Recipe(weights="mine.pth").peak_learning_rate == 0.01
    assert Recipe(learning_rate=0.3).peak_learning_rate == 0.3


def test_padding_is_an_eighth_when_unset():
    assert (Recipe().padding_for(32), Recipe().padding_for(7)) == (4, 0)
    assert Recipe(resized_crop=(0.2, 1.0)).padding_for(32) == 0
    assert (Recipe(crop_padding=0).padding_for(32), Recipe(crop_padding=3).padding_for(32)) == (0, 3)


def test_normalization():
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    ours = (0.5, 0.6, 0.7), (0.8, 0.9, 1.0)
    assert Recipe().normalization(mean, std) == (mean, std)
    assert Recipe(weights="imagenet").normalization(mean, std) == (IMAGENET_MEAN, IMAGENET_STD)
    assert Recipe(weights="imagenet", mean=ours[0], std=ours[1]).normalization(mean, std) == ours


def test_a_channel_without_variation_is_not_divided_by_zero():
    assert Recipe().normalization((0.1, 0.2, 0.3), (0.0, 0.5, 0.0)) == ((0.1, 0.2, 0.3), (1.0, 0.5, 1.0))


def test_epochs_by_the_size_of_the_data():
    assert [Recipe().epochs_for(images) for images in (500, 1_257, 4_000, 50_000, 500_000)] == [39, 16, 16, 16, 16]
    assert Recipe(epochs=3).epochs_for(500) == 3


def test_more_images_take_fewer_epochs_and_more_steps():
    """From 500 images to 500,000, with default settings."""
    recipe, sizes = Recipe(batch_size=64), [round(500 * 10 ** (tenth / 10)) for tenth in range(31)]
    assert (sizes[0], sizes[-1]) == (500, 500_000)
    epochs = [recipe.epochs_for(images) for images in sizes]
    seen = [images * passes for images, passes in zip(sizes, epochs, strict=True)]
    assert epochs == sorted(epochs, reverse=True)
    # A training on more images never sees clearly fewer of them in total.
    assert all(more > 0.99 * less for less, more in pairwise(seen))
    assert min(seen) >= 300 * recipe.images_per_batch
    assert (max(epochs), min(epochs)) == (39, 16)
    # The span of the weights' average is a small part even of the shortest training.
    steps = [images // recipe.images_per_batch * passes for images, passes in zip(sizes, epochs, strict=True)]
    assert 10 / (1 - recipe.averaging) < min(steps)


@given(
    device=st.sampled_from(["cpu", "mps", "cuda"]),
    image_size=st.integers(8, 2048),
    images=st.integers(2, 10**7),
    weights=st.sampled_from(["none", "imagenet"]),
)
def test_a_batch_is_as_large_as_card_and_split_allow(device: str, image_size: int, images: int, weights: str):
    recipe = Recipe(weights=weights)
    found = recipe.resolved(device, image_size, images)
    few = weights == "imagenet" and images < 10_000
    assert (found.freeze_epochs, found.resized_crop) == ((1, (0.35, 1.0)) if few else (0, None))
    batch = found.images_per_batch
    assert batch in ((64, 128, 256, 512) if device == "cuda" else (64,))
    # An epoch has a minimum of steps, and one more pixel or one image fewer never increases the batch size.
    assert batch == 64 or images // batch >= 64
    assert recipe.resolved(device, image_size + 1, images).images_per_batch <= batch
    assert recipe.resolved(device, image_size, images - 1).images_per_batch <= batch
    assert found.peak_learning_rate == pytest.approx(recipe.peak_learning_rate * batch / 64)
    assert found.resolved("cpu", 8, 2) == found


def test_what_is_given_is_not_scaled():
    assert Recipe(learning_rate=0.1).resolved("cuda", 32, 90_000).learning_rate == 0.1
    assert Recipe(learning_rate=0.1).resolved("cuda", 32, 90_000).images_per_batch == 512
    found = Recipe(batch_size=256).resolved("cuda", 32, 90_000)
    assert (found.peak_learning_rate, found.epochs, found.crop_padding) == (0.05, 16, 4)
    with pytest.raises(ValueError, match="resolved"):
        _ = Recipe().images_per_batch


def test_augmentation_grows_with_the_images():
    shifts = [Recipe().padding_for(size) for size in range(28, 257)]
    assert shifts == sorted(shifts)
    assert (shifts[0], shifts[-1]) == (3, 32)


def test_defaults_for_few_images_yield_to_what_is_given():
    given = Recipe(weights="imagenet", freeze_epochs=3, resized_crop=None)
    found = given.resolved("cpu", 128, 500)
    assert (found.freeze_epochs, found.resized_crop, found.crop_padding) == (3, None, 16)
    assert Recipe(weights="imagenet").resolved("cpu", 128, 500).crop_padding == 0
    assert Recipe(preset="article").resolved("cpu", 32, 500).freeze_epochs == 0
