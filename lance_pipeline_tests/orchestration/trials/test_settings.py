"""Parsing the settings of trials from a command line and from a run's configuration."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lance_pipeline.errors import InputError
from lance_pipeline.orchestration.attributes import ImageClassifierAttributes
from lance_pipeline.orchestration.trials.settings import (
    as_text,
    candidates,
    differences,
    from_command_line,
    from_run_config,
    to_run_config,
)

CURRENT = ImageClassifierAttributes.model_validate(
    {"source": {"sample": "digits"}, "recipe": {"epochs": 8, "flip": False}, "image_size": 32}
)


def tried(*words: str) -> list[ImageClassifierAttributes]:
    return candidates(CURRENT, from_run_config(to_run_config(from_command_line(words))))


def test_settings_change_the_current_recipe_and_nothing_else():
    (one,) = tried("recipe.epochs=30", "recipe.mixup=0.2", "image_size=64", "model=resnet18")
    assert (one.recipe.epochs, one.recipe.mixup, one.recipe.flip, one.image_size) == (30, 0.2, False, 64)
    assert differences(CURRENT, one.recipe, one.image_size, one.model) == {
        "recipe.epochs": 30,
        "recipe.mixup": 0.2,
        "model": "resnet18",
        "image_size": 64,
    }
    assert CURRENT.recipe.epochs == 8


def test_values_are_searched_each_with_each():
    found = tried("recipe.mixup=0,0.2", "recipe.resized_crop=[0.25,1.0],null,[0.5,1]", "recipe.learning_rate=1e-3")
    assert [(one.recipe.mixup, one.recipe.resized_crop) for one in found] == [
        (mixup, crop) for mixup in (0, 0.2) for crop in ((0.25, 1), None, (0.5, 1))
    ]
    assert {one.recipe.learning_rate for one in found} == {0.001}


def test_a_preset_fills_what_is_not_set():
    (one,) = tried("recipe.preset=article", "recipe.flip=true")
    assert (one.recipe.batch_size, one.recipe.epochs, one.recipe.flip) == (64, 8, True)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("recipe.epoch=30", "`recipe.epochs`"),
        ("epochs=30", "`recipe.epochs`"),
        ("recipe.mix-up=0.2", "`recipe.mixup`"),
        ("recipe.learning-rate=0.2", "`recipe.learning_rate`"),
        ("imagesize=64", "`image_size`"),
        ("model=resnet", "resnet"),
        ("model=vit_b_16", "`image_size` 32"),
        ("device=cpu", "`device`"),
        ("recipe.epochs", "is not a setting"),
        ("recipe.epochs=", "lacks a value"),
        ("recipe.mixup=0,,0.2", "lacks a value"),
        ("recipe.epochs=five", "recipe.epochs=five"),
        ("recipe.flip=1", "recipe.flip=1"),
        ("recipe.mixup=true", "recipe.mixup=true"),
        ("recipe.mean=[0.5", "recipe.mean"),
        ("recipe.crop_padding=40", "crop_padding"),
        ("recipe.mixup=0,-1", "recipe.mixup=-1"),
    ],
)
def test_what_is_wrong_is_named(word: str, expected: str):
    with pytest.raises(InputError) as error:
        tried(word)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_a_setting_twice_is_an_error():
    with pytest.raises(InputError, match=r"recipe\.epochs"):
        tried("recipe.epochs=1", "recipe.epochs=2")


_NUMBERS = st.floats(0.01, 1).map(lambda value: round(value, 3))
_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "recipe.epochs": st.integers(1, 500) | st.just("auto"),
    "recipe.mixup": _NUMBERS,
    "recipe.flip": st.booleans(),
    "recipe.patience": st.none() | st.integers(1, 9),
    "recipe.resized_crop": st.none() | st.tuples(_NUMBERS, _NUMBERS).map(sorted),
    "image_size": st.integers(8, 1024),
}


@given(st.fixed_dictionaries({}, optional={key: st.lists(one, min_size=1, max_size=3) for key, one in _VALUES.items()}))
def test_words_and_configuration_say_the_same(values: dict[str, list[Any]]):
    words = [f"{key}={','.join(as_text({key: one}).partition('=')[2] for one in some)}" for key, some in values.items()]
    assert from_command_line(words) == values
    assert from_run_config(to_run_config(values)) == values
