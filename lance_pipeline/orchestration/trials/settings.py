"""The settings of trials: ``recipe.epochs=30``; several values of a setting make a search."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import yaml
from pydantic import ValidationError

from lance_pipeline.errors import InputError
from lance_pipeline.orchestration.attributes import ImageClassifierAttributes
from lance_pipeline.orchestration.nearest import did_you_mean
from lance_pipeline.training.recipe import Recipe

_BESIDE_THE_RECIPE = ("model", "image_size")
KEYS = (*(f"recipe.{name}" for name in Recipe.model_fields), *_BESIDE_THE_RECIPE)
# A single value of these settings is a list.
_LISTS = ("recipe.mean", "recipe.std", "recipe.resized_crop")
_EXAMPLE = "expected such as `recipe.epochs=30`, or several values to search, `recipe.mixup=0,0.2,0.4`"
Settings = dict[str, Any]


def from_command_line(words: Sequence[str]) -> dict[str, list[Any]]:
    """The values of each setting named on a command line.

    Raises:
        InputError: a word is not a setting.
    """
    values: dict[str, list[Any]] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals:
            raise InputError(f"{word!r} is not a setting; {_EXAMPLE}.")
        require_known(key)
        if key in values:
            raise InputError(f"`{key}` is set twice; {_EXAMPLE}.")
        try:
            values[key] = [yaml.safe_load(part) for part in _parts(text)]
        except yaml.YAMLError as error:
            raise InputError(f"`{key}`: {text!r} is not a value; {_EXAMPLE}.") from error
        if None in values[key] and "null" not in text:
            raise InputError(f"`{word}` lacks a value; {_EXAMPLE}.")
    return values


def from_run_config(settings: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The values of each setting in a run's configuration, where a list means a search.

    Raises:
        InputError: a key is not a setting, or a search has no values.
    """
    values: dict[str, list[Any]] = {}
    for key, value in settings.items():
        require_known(key)
        one_value = key in _LISTS and isinstance(value, list) and all(isinstance(one, int | float) for one in value)
        several = isinstance(value, list) and not (one_value and value)
        values[key] = value if several else [value]
        if not values[key]:
            raise InputError(f"`{key}` lacks a value.")
    return values


def to_run_config(values: Mapping[str, list[Any]]) -> Settings:
    """The inverse of `from_run_config`: the settings for a run's configuration."""
    return {key: some[0] if len(some) == 1 else some for key, some in values.items()}


def require_known(key: str) -> None:
    """Check that trials may change a setting.

    Raises:
        InputError: they may not; the message suggests the nearest setting.
    """
    if key in KEYS:
        return
    by_name = {known.rpartition(".")[2]: known for known in KEYS}
    near = did_you_mean(key.rpartition(".")[2], by_name, lambda name: f"`{by_name[name]}`")
    raise InputError(f"`{key}` is not a setting of trials.{near} Expected one of {', '.join(KEYS)}.")


def candidates(current: ImageClassifierAttributes, values: Mapping[str, list[Any]]) -> list[ImageClassifierAttributes]:
    """The attributes of a dataset for each combination of the values, in order.

    Raises:
        InputError: a value is invalid for its setting.
    """
    return [_changed(current, dict(zip(values, combination, strict=True))) for combination in product(*values.values())]


def _changed(current: ImageClassifierAttributes, settings: Settings) -> ImageClassifierAttributes:
    recipe = current.recipe.model_dump(exclude_unset=True)
    recipe |= {key.removeprefix("recipe."): value for key, value in settings.items() if key.startswith("recipe.")}
    beside = {key: settings.get(key, getattr(current, key)) for key in _BESIDE_THE_RECIPE}
    try:
        checked = ImageClassifierAttributes.model_validate(
            {"source": {"folder": "anywhere"}, "recipe": recipe} | beside
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        message = first["msg"].removeprefix("Value error, ")
        key = ".".join(str(part) for part in first["loc"][:2])
        raise InputError(f"{f'`{as_text({key: settings[key]})}`: ' if key in settings else ''}{message}.") from error
    return current.model_copy(update={key: getattr(checked, key) for key in ("recipe", *_BESIDE_THE_RECIPE)})


def differences(now: ImageClassifierAttributes, recipe: Recipe, image_size: int, network: str) -> Settings:
    """What a recipe, an image size and a network change in a dataset's attributes, except for the seed."""
    before, after = (one.model_dump(mode="json", exclude={"preset", "seed"}) for one in (now.recipe, recipe))
    found = {f"recipe.{name}": value for name, value in after.items() if value != before[name]}
    beside = {"model": network, "image_size": image_size}
    return found | {key: value for key, value in beside.items() if value != getattr(now, key)}


def as_text(settings: Settings) -> str:
    """Settings in the form of command-line words."""
    return " ".join(f"{key}={_value(value)}" for key, value in settings.items())


def _value(value: object) -> str:
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_value, value))}]"
    return {"True": "true", "False": "false", "None": "null"}.get(str(value), str(value))


def _parts(text: str) -> list[str]:
    """Split the text at commas, except inside brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "[{") - (character in "]}")
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return parts
