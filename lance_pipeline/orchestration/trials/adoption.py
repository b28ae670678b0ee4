"""Writing a trial's settings into a ``defs.yaml``, keeping its comments and order."""

import json
import math
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from lance_pipeline.errors import InputError
from lance_pipeline.orchestration.trials.settings import Settings
from lance_pipeline.storage.whole_files import whole_file

_BLOCK_SCALARS = ("|", ">")


def adopt(path: Path, dataset: str, settings: Settings) -> None:
    """Write settings into the file that defines a dataset, atomically.

    The new text is from_command_line and compared before it replaces the file.

    Args:
        path: the ``defs.yaml``.
        dataset: name of the dataset, because a file may define several.
        settings: new values by key, such as ``recipe.epochs``.

    Raises:
        InputError: the file cannot be read or written, or has a form that this cannot edit.
    """
    # Keep a link as a link.
    path = path.resolve()
    try:
        before = path.read_bytes().decode()
        mode = stat.S_IMODE(path.stat().st_mode)
        try:
            after = with_settings(before, dataset, path.parent.name, settings)
        except (ValueError, yaml.YAMLError) as error:
            raise InputError(
                f"{path} is written in a way that cannot be edited safely ({error}); it is unchanged. Below "
                f"`attributes`, set:\n{_lines(settings)}"
            ) from error
        with whole_file(path) as work:
            Path(work).write_bytes(after.encode())
            os.chmod(work, mode)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"cannot write {path}: {error}. It is unchanged. Below `attributes`, set:\n{_lines(settings)}"
        ) from error


def with_settings(text: str, dataset: str, folder: str, settings: Settings) -> str:
    """The text of a ``defs.yaml`` with new settings for a dataset.

    Raises:
        ValueError: the text cannot be edited.
        yaml.YAMLError: the text is not YAML.
    """
    wanted = _parsed(text)
    number = _document(wanted, dataset, folder)
    for key, value in settings.items():
        *parents, name = key.split(".")
        place = wanted[number]["attributes"]
        for parent in parents:
            place[parent] = place.get(parent) or {}
            place = place[parent]
        place[name] = _plain(value)
        # Parse the text again for each setting, because every edit shifts positions.
        attributes = _child(list(yaml.compose_all(text, yaml.SafeLoader))[number], "attributes")
        text = _set(text, attributes, key.split("."), value)
    if _parsed(text) != wanted:
        raise ValueError("the edited file would not have the new settings")
    return text


def _parsed(text: str) -> list[Any]:
    return [_unshared(document) for document in yaml.safe_load_all(text)]


def _unshared(value: Any) -> Any:
    """A copy of a value without shared parts, so that changing one alias of an anchor leaves the others alone."""
    if isinstance(value, dict):
        return {key: _unshared(item) for key, item in value.items()}
    return [_unshared(item) for item in value] if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _document(documents: list[Any], dataset: str, folder: str) -> int:
    """The index of the component in the file that defines the dataset."""
    attributes = [document.get("attributes") if isinstance(document, dict) else None for document in documents]
    # Other components may have names too, but no source.
    names = [one.get("name") or folder if isinstance(one, dict) and "source" in one else None for one in attributes]
    if names.count(dataset) != 1:
        raise ValueError(f"{names.count(dataset)} of its components are named {dataset}")
    return names.index(dataset)


def _child(node: yaml.Node, name: str) -> yaml.Node:
    found = _find(node, name)
    if found is None:
        raise ValueError(f"there is no `{name}`")
    return found


def _find(node: yaml.Node, name: str) -> yaml.Node | None:
    if not isinstance(node, yaml.MappingNode):
        raise ValueError("it is not a mapping")
    values = [value for key, value in node.value if key.value == name]
    if len(values) > 1:
        raise ValueError(f"`{name}` is there twice")
    return values[0] if values else None


def _set(text: str, node: yaml.Node, keys: list[str], value: Any) -> str:
    """The text with the value at a path below a mapping."""
    name, *rest = keys
    found = _find(node, name)
    if found is None:
        return _added(text, node, name, f"{{{rest[0]}: {_flow(value)}}}" if rest else _flow(value))
    if rest and isinstance(found, yaml.MappingNode) and found.value:
        return _set(text, found, rest, value)
    new = f"{{{rest[0]}: {_flow(value)}}}" if rest else _flow(value)
    start, end = found.start_mark.index, _end(text, found)
    if isinstance(found, yaml.CollectionNode) and "#" in text[start:end]:
        raise ValueError(f"a comment inside of `{name}` would be lost")
    # An empty value directly after `key:` needs a space.
    return text[:start] + (" " if start == end and text[start - 1 : start] == ":" else "") + new + text[end:]


def _added(text: str, node: yaml.Node, name: str, value: str) -> str:
    """The text with a key added at the end of a mapping."""
    if not isinstance(node, yaml.MappingNode) or not node.value:
        raise ValueError("a mapping is empty")
    end = _end(text, node.value[-1][1])
    if node.flow_style:
        return f"{text[:end]}, {name}: {value}{text[end:]}"
    # Insert after the line's comment.
    line_end = text.find("\n", end)
    line_end = len(text) if line_end < 0 else line_end - (text[line_end - 1] == "\r")
    newline = "\r\n" if "\r\n" in text else "\n"
    indent = " " * node.start_mark.column
    return f"{text[:line_end]}{newline}{indent}{name}: {value}{text[line_end:]}"


def _end(text: str, node: yaml.Node) -> int:
    """The end of a node's text; that of a block is the end of its last part."""
    if isinstance(node, yaml.ScalarNode):
        end = node.end_mark.index
        if node.style in _BLOCK_SCALARS:
            end = len(text[:end].rstrip())
        return end
    if getattr(node, "flow_style", False) or not node.value:
        return node.end_mark.index
    last = node.value[-1]
    return _end(text, last[1] if isinstance(last, tuple) else last)


def _flow(value: Any) -> str:
    """A value on one line, quoted as required inside braces."""
    listed = yaml.safe_dump([_plain(value)], default_flow_style=True, width=math.inf, allow_unicode=True)
    return listed.strip()[1:-1]


def _lines(settings: Settings) -> str:
    return "\n".join(_indented(settings))


def _indented(settings: Settings) -> Iterator[str]:
    recipe = {key.removeprefix("recipe."): value for key, value in settings.items() if key.startswith("recipe.")}
    yield from (f"  {key}: {_flow(value)}" for key, value in settings.items() if "." not in key)
    if recipe:
        yield "  recipe:"
        yield from (f"    {key}: {_flow(value)}" for key, value in recipe.items())
