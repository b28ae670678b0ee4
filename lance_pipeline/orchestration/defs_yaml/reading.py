"""Reading a ``defs.yaml`` as Dagster does, and explaining failures."""

import re
import stat
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from dagster_shared.yaml_utils import parse_yamls_with_source_position
from dagster_shared.yaml_utils.source_position import SourcePositionTree

Key = tuple[str | int, ...]
EXAMPLE = "Example: `type: lance_pipeline.ImageClassifier` and `attributes: {source: {folder: /mnt/photos/flowers}}`"
_KEY = re.compile(r"\s*(?:-\s+)?([A-Za-z_][\w-]*)\s*:(?=\s|$)")
# Explanations by a phrase of the parser's message, which itself may quote values.
_PROBLEMS = {
    "mapping values are not allowed": "a second `: ` in one value, or a wrong indentation. Put the value into quotes",
    "'<stream end>'": "a bracket, brace or quote is not closed",
    "expected ',' or": "a bracket or brace is not closed, or a comma is missing",
    "<block end>": "the indentation does not fit the lines above. Indent keys of one level alike",
    "could not find expected ':'": "a key without a `:` after it",
    "cannot start any token": "the value begins with a character of YAML's own. Put it into quotes",
    "scanning an alias": "`*` has a special meaning in YAML. Put the value into quotes",
    "undefined alias": "`*` has a special meaning in YAML. Put the value into quotes",
    "constructor for the tag": "`!` has a special meaning in YAML. Put the value into quotes",
    "recursive": "an anchor that contains itself",
}


class UnreadableError(Exception):
    """The file is not YAML that can be loaded.

    Args:
        reason: what is wrong, what is expected, and an example.
        line: line number, from 1.
        key: the key whose value is wrong, as far as known.
    """

    def __init__(self, reason: str, line: int = 1, key: Key = ()) -> None:
        super().__init__(reason)
        self.reason, self.line, self.key = reason, line, key


@dataclass(frozen=True)
class Document:
    """One document of a file; documents are separated by ``---``."""

    value: Any
    positions: SourcePositionTree

    def line(self, key: Sequence[str | int]) -> int:
        """The line of a key, or of its innermost ancestor that exists."""
        return self.positions.lookup_closest_and_path(key, None)[0].start.line


def read_documents(path: Path) -> list[Document]:
    """The documents of a file, at least one.

    Raises:
        UnreadableError: it is not a file, not text, not YAML, empty, or has a duplicate key.
    """
    text = _text(path)
    try:
        for node in yaml.compose_all(text, Loader=yaml.SafeLoader):
            _require_single_keys(node, (), set())
        trees = parse_yamls_with_source_position(text, str(path))
    except yaml.MarkedYAMLError as error:
        raise _explained(text, error) from None
    except RecursionError:
        raise UnreadableError("nested too deeply to be read.") from None
    except (yaml.YAMLError, TypeError, ValueError) as error:
        position = getattr(error, "position", 0)
        reason = "a character that YAML does not allow. Remove it" if position else f"not valid YAML. {EXAMPLE}"
        raise UnreadableError(f"{reason}.", text.count("\n", 0, position) + 1) from None
    if not trees or all(tree.value is None for tree in trees):
        raise UnreadableError(f"the file is empty. {EXAMPLE}.")
    return [Document(tree.value, tree.source_position_tree) for tree in trees]


def _text(path: Path) -> str:
    try:
        # Reading a pipe or a device could block forever.
        if not stat.S_ISREG(path.stat().st_mode):
            raise UnreadableError("not a file. Put a file there, or remove it.")
        data = path.read_bytes()
    except FileNotFoundError:
        raise UnreadableError("a link to a file that is not there. Put a file there, or remove the link.") from None
    except OSError as error:
        raise UnreadableError(
            f"the file cannot be read: {error.strerror}. Give yourself the right to read file and folder."
        ) from None
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UnreadableError("not UTF-8. Save the file in that encoding.", line) from None


def _require_single_keys(node: yaml.Node | None, above: Key, seen: set[int]) -> None:
    """Reject duplicate keys, of which YAML loaders silently take the last."""
    if node is None or id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for number, one in enumerate(node.value):
            _require_single_keys(one, (*above, number), seen)
    if isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for name, value in node.value:
            line = name.start_mark.line + 1
            if not isinstance(name, yaml.ScalarNode):
                raise UnreadableError("a key that is a list or has keys of its own. Expected text.", line, above)
            key = (*above, name.value)
            if name.value in lines:
                raise UnreadableError(f"given twice, first in line {lines[name.value]}. Remove one.", line, key)
            lines[name.value] = line
            _require_single_keys(value, key, seen)


def _explained(text: str, error: yaml.MarkedYAMLError) -> UnreadableError:
    problem = f"{error.context} {error.problem}"
    at_end = "<stream end>" in problem
    mark = (error.context_mark if at_end else error.problem_mark) or error.problem_mark or error.context_mark
    number = mark.line if mark else 0
    shown = dict(enumerate(text.splitlines())).get(number, "")
    key = _key_before(text, mark.index if mark else 0)
    # The scanner may fail before it emits the key that it is at.
    if (begun := _KEY.match(shown)) and begun[1] not in key:
        key = (*key, begun[1])
    if "\t" in shown[: len(shown) - len(shown.lstrip())]:
        reason = "indented by a tab. Use spaces, two for each level"
    else:
        reason = next((told for words, told in _PROBLEMS.items() if words in problem), "not valid YAML")
    return UnreadableError(f"{reason}.", number + 1, key)


def _key_before(text: str, index: int) -> Key:
    """The key whose value starts at this character, or is cut off before it by an error."""
    open_mappings: list[list[str | None]] = []
    with suppress(yaml.YAMLError):
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if event.start_mark.index >= index:
                break
            _follow(event, open_mappings)
    return tuple(keys[-1] for keys in open_mappings if keys and keys[-1] is not None)


def _follow(event: yaml.Event, open_mappings: list[list[str | None]]) -> None:
    """Track the keys that lead to the next event: one entry for each open mapping, None for an open sequence."""
    inside = open_mappings[-1] if open_mappings else None
    if isinstance(event, yaml.MappingStartEvent):
        open_mappings.append([])
    elif isinstance(event, yaml.SequenceStartEvent):
        open_mappings.append([None])
    elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
        open_mappings.pop()
        _end_value(open_mappings)
    elif isinstance(event, yaml.ScalarEvent | yaml.AliasEvent) and inside is not None:
        if not inside:
            inside.append(event.value if isinstance(event, yaml.ScalarEvent) else "")
        else:
            _end_value(open_mappings)


def _end_value(open_mappings: list[list[str | None]]) -> None:
    if open_mappings and open_mappings[-1] != [None]:
        open_mappings[-1].clear()
