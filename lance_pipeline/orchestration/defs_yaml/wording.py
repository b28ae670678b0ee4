"""Pydantic's errors in plain words."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from lance_pipeline.orchestration.attributes import ImageClassifierAttributes
from lance_pipeline.orchestration.defs_yaml.keys import example, field_path, homes, model_at
from lance_pipeline.orchestration.defs_yaml.reading import Key
from lance_pipeline.orchestration.nearest import did_you_mean, nearest

ABOVE = ("attributes",)
ATTRIBUTES = "attributes: {source: {folder: /mnt/photos/flowers}}"
NAME_WORDS = "letters, digits and `_`, a letter first"
# By pydantic's error type.
_EXPECTED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "missing": "more values",
    "string_type": "text, in quotes where it looks like a number",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "keys and values",
    "mapping_type": "keys and values",
    "string_pattern_mismatch": NAME_WORDS,
}
_UNKNOWN = {"extra_forbidden", "invalid_key"}
_MODEL_TYPES = ("model_type", "model_attributes_type")
_ROOT = ImageClassifierAttributes
_Details = Mapping[str, Any]


def messages_by_key(error: ValidationError) -> dict[Key, str]:
    """The problem with each key of the attributes."""
    by_key: dict[Key, list[_Details]] = {}
    for one in error.errors():
        by_key.setdefault(field_path(_ROOT, one["loc"]), []).append(one)
    unknown = {key for key, errors in by_key.items() if errors[0]["type"] in _UNKNOWN}
    # These keys are misspelt, or indented too little, rather than missing.
    meant = {(*key[:-1], nearest(str(key[-1]), _siblings(key))) for key in unknown}
    meant |= {place for key in unknown for place in homes(_ROOT, str(key[-1])) if place}
    return {
        (*ABOVE, *key): unknown_key(key, _siblings(key)) if key in unknown else _wrong_value(key, errors)
        for key, errors in by_key.items()
        if key not in meant or not _is_absent(errors[0])
    }


def unknown_key(key: Key, known: Sequence[str]) -> str:
    """Where an unknown key belongs, or which key was probably meant.

    Args:
        key: path of the key below the attributes.
        known: the valid keys at the same level.
    """
    name = str(key[-1])
    near = nearest(name, known)
    if near is None and (places := list(homes(_ROOT, name))):
        place, right = ".".join((*ABOVE, *places[0])), example(_ROOT, (*places[0], name))
        return f"belongs below `{place}`. Example: attributes: {{{right}}}"
    others = f" Expected one of {', '.join(known)}." if near is None else ""
    return f"unknown key.{did_you_mean(name, known, '`{}`'.format)}{others}{example_of((*key[:-1], near or known[0]))}"


def example_of(key: Key) -> str:
    """A sentence with an example of a key below the attributes, or of minimal attributes if the key is unknown."""
    inside = model_at(_ROOT, key[:-1]) if key else None
    known = inside is not None and key[-1] in inside.model_fields
    return f" Example: {example(_ROOT, key) if known else ATTRIBUTES}"


def _siblings(key: Key) -> list[str]:
    inside = model_at(_ROOT, key[:-1])
    return [] if inside is None else list(inside.model_fields)


def _is_absent(error: _Details) -> bool:
    return error["type"] == "missing" or (error["type"] in _MODEL_TYPES and not error["input"])


def _wrong_value(key: Key, errors: Sequence[_Details]) -> str:
    missing = errors[0]["type"] == "missing" and len(errors[0]["loc"]) == len(key)
    return f"{'missing' if missing else _expectation(key, errors)}.{example_of(key)}"


def _expectation(key: Key, errors: Sequence[_Details]) -> str:
    own = [one["msg"].removeprefix("Value error, ") for one in errors if one["type"] == "value_error"]
    if own:
        return own[0].rstrip(".")
    if errors[0]["type"] in _MODEL_TYPES and (inside := model_at(_ROOT, key)):
        return f"expected keys below it: {', '.join(inside.model_fields)}"
    return f"expected {' or '.join(dict.fromkeys(map(_expected, errors)))}"


def _expected(error: _Details) -> str:
    if error["type"] == "literal_error":
        return str(error["ctx"]["expected"]).replace("'", "`")
    said = str(error["msg"]).removeprefix("Input should be ")
    return _EXPECTED.get(error["type"], f"a value {said}" if said.startswith(("greater", "less")) else said)
