"""The keys of a pydantic model, with an example of each."""

import re
import types
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

Model = type[BaseModel]
_PLAIN = re.compile(r"[\w/][\w./-]*")


class _Dumper(yaml.SafeDumper):
    """Quotes strings that are safer quoted."""


def _quoted(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if _PLAIN.fullmatch(text) else '"')


_Dumper.add_representer(str, _quoted)


def model_at(model: Model, keys: Sequence[str | int]) -> Model | None:
    """The model of the keys below this path; None if no keys are expected there."""
    for key in keys:
        field = model.model_fields.get(str(key))
        inner = None if field is None else _model_of(field)
        if inner is None:
            return None
        model = inner
    return model


def field_path(model: Model, location: Sequence[str | int]) -> tuple[str | int, ...]:
    """The path of keys in the location of a pydantic error, without the type names that pydantic tried."""
    path: list[str | int] = []
    inside: Model | None = model
    for part in location:
        if inside is None or str(part) not in inside.model_fields:
            # An unknown key of a model is part of the path; an index or a type's name is not.
            return (*path, part) if inside is not None else tuple(path)
        path.append(part)
        inside = _model_of(inside.model_fields[str(part)])
    return tuple(path)


def homes(model: Model, key: str, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The places below a model where a key of this name belongs."""
    for name, field in model.model_fields.items():
        if name == key:
            yield above
        if inner := _model_of(field):
            yield from homes(inner, key, (*above, name))


def example(model: Model, path: Sequence[str | int]) -> str:
    """One line of YAML that sets the key at a path, starting from the model's outermost key."""
    value: Any = _example_at(model, path)
    for key in reversed(path):
        value = {key: value}
    return _on_one_line(value)


def _on_one_line(value: dict[Any, Any]) -> str:
    return yaml.dump(value, Dumper=_Dumper, default_flow_style=True, sort_keys=False, width=10_000).strip()[1:-1]


def _example_at(model: Model, path: Sequence[str | int]) -> Any:
    *above, last = path
    inside = model_at(model, above)
    field = None if inside is None else inside.model_fields.get(str(last))
    return None if field is None else _example_of(field)


def _example_of(field: FieldInfo) -> Any:
    if field.examples:
        return field.examples[0]
    if inner := _model_of(field):
        name, first = next(iter(inner.model_fields.items()))
        return {name: _example_of(first)}
    default = field.get_default(call_default_factory=True)
    if isinstance(default, str | int | float | bool | list) and default != []:
        return default
    return next(iter(_options(field.annotation)), "…")


def _options(annotation: Any) -> list[Any]:
    """The values that an annotation lists."""
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    return [one for inner in get_args(annotation) for one in _options(inner)]


def _model_of(field: FieldInfo) -> Model | None:
    return _model_in(field.annotation)


def _model_in(annotation: Any) -> Model | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (Union, types.UnionType, Annotated):
        return next((found for one in get_args(annotation) if (found := _model_in(one))), None)
    return None
