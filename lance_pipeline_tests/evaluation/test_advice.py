"""Findings about a model's metrics, and the suggested settings."""

import re

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lance_pipeline.evaluation.advice import beats_guessing, generalizes, has_converged, keeps_up
from lance_pipeline.training.recipe import Recipe

SHARES = st.floats(0, 1)
RANDOM = Recipe(weights="none", epochs=5)
TRAINED = Recipe(weights="imagenet", epochs=5, resized_crop=(0.35, 1.0), randaugment=9, mixup=0.2)


def tried(text: str) -> list[dict[str, object]]:
    """The settings that an advice suggests, parsed from YAML and validated."""
    found = [yaml.safe_load(one) for one in re.findall(r"`([^`]+)`", text)]
    for one in found:
        fields = one.get("recipe", one)
        Recipe.model_validate({name: value for name, value in fields.items() if name != "image_size"})
    return found


def test_a_model_that_learned_nothing():
    """Eight classes, a tenth of the images correct."""
    advice = beats_guessing(0.096, 83, 0.14, RANDOM, 32)
    assert not advice.passed
    assert {"image_size": 128} in tried(advice.text)
    assert {"recipe": {"weights": "imagenet"}} in tried(advice.text)
    assert {"recipe": {"epochs": 10}} in tried(advice.text)
    assert not any("weights" in str(one) for one in tried(beats_guessing(0.1, 83, 0.14, TRAINED, 128).text))


@given(SHARES, st.integers(1, 10_000), SHARES)
def test_no_better_than_the_commonest_class_is_never_enough(accuracy, images, commonest):
    advice = beats_guessing(accuracy, images, commonest, RANDOM, 32)
    if accuracy <= commonest and accuracy < 1:
        assert not advice.passed
    assert advice.passed == (not advice.text)


def test_a_few_images_right_by_chance_are_not_enough():
    assert not beats_guessing(0.6, 10, 0.5, RANDOM, 32).passed
    assert beats_guessing(0.6, 1000, 0.5, RANDOM, 32).passed
    assert beats_guessing(1.0, 3, 0.5, RANDOM, 32).passed


@pytest.mark.parametrize(
    ("accuracies", "done"),
    [
        ([0.5], True),
        ([0.5, 0.6], False),
        ([0.6, 0.5], True),
        ([0.2, 0.4, 0.5, 0.505], True),
        ([number / 40 for number in range(40)], False),
        ([0.9] * 39 + [0.8], True),
        ([], True),
    ],
)
def test_still_rising_at_the_end(accuracies, done):
    advice = has_converged(accuracies)
    assert advice.passed == done
    if not done:
        assert tried(advice.text) == [{"recipe": {"epochs": 2 * len(accuracies)}}]


def test_learned_by_heart():
    advice = generalizes(0.99, 0.7, RANDOM)
    assert not advice.passed
    assert {"weights": "imagenet"} in tried(advice.text)
    assert {"mixup": 0.2} in tried(advice.text)
    assert tried(generalizes(0.99, 0.7, TRAINED).text) == []
    assert generalizes(0.9, 0.85, RANDOM).passed
    assert generalizes(0.5, 0.9, RANDOM).passed


def test_far_below_the_model_before():
    assert not keeps_up(0.80, 1000, 0.90, 1000, same_split=True).passed
    assert "other images" in keeps_up(0.80, 1000, 0.90, 1000, same_split=False).text
    assert keeps_up(0.89, 1000, 0.90, 1000, same_split=True).passed
    # With few images, three more mistakes may be chance.
    assert keeps_up(0.7, 10, 1.0, 10, same_split=True).passed
    assert keeps_up(0.9, 1000, 0.8, 0, same_split=True).passed
