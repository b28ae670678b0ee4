"""Finding the mistakes in a ``defs.yaml``."""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dagster.components.core.defs_module import ComponentFileModel
from dagster_shared.error import DagsterUnresolvableSymbolError
from dagster_shared.seven import load_module_object
from pydantic import ValidationError

from lance_pipeline.display import printable
from lance_pipeline.orchestration.attributes import NAME_PATTERN, ImageClassifierAttributes
from lance_pipeline.orchestration.defs_yaml.folders import yaml_file
from lance_pipeline.orchestration.defs_yaml.reading import EXAMPLE, Document, Key, UnreadableError, read_documents
from lance_pipeline.orchestration.defs_yaml.wording import (
    ABOVE,
    ATTRIBUTES,
    NAME_WORDS,
    example_of,
    messages_by_key,
    unknown_key,
)
from lance_pipeline.orchestration.nearest import did_you_mean, nearest
from lance_pipeline.storage.redaction import redact

TYPE = "lance_pipeline.ImageClassifier"
_LONG_TYPE = "lance_pipeline.orchestration.component.ImageClassifier"
_NAME: Key = ("attributes", "name")
_TYPE_NAME = re.compile(r"[\w.]{1,100}")
_TYPES = {name.rpartition(".")[2]: name for name in (TYPE, "dagster.DefsFolderComponent")}


def broken_folders(folders: Mapping[Path, str | None]) -> dict[Path, str]:
    """The mistakes in each folder with a broken file, as far as they show without loading it.

    Args:
        folders: the result of ``component_folders``.
    """
    broken, owners = {}, {}
    for folder, reason in folders.items():
        path = yaml_file(folder)
        lines = [reason] if reason else mistakes(path)
        for line, name in [] if lines else _datasets(path):
            if name in owners:
                other = f"{owners[name]} defines a dataset {name!r} too. Set another name."
                lines.append(_line(path, line, _NAME, f"{other} Example: name: {name}_2"))
            owners.setdefault(name, f"{path}:{line}")
        if lines:
            broken[folder] = "\n".join(lines)
    return broken


def _datasets(path: Path) -> Iterator[tuple[int, str]]:
    """The names of the datasets in a file, each with its line."""
    for document in read_documents(path):
        if _is_classifier(document):
            yield document.line(_NAME), document.value["attributes"].get("name") or path.parent.name


def mistakes(path: Path) -> list[str]:
    """One line for each mistake in a file, in file order; empty if it is correct or belongs to another component.

    No line quotes the value of an unknown key, or a secret.
    """
    try:
        documents = read_documents(path)
    except UnreadableError as error:
        example = example_of(error.key[1:]) if error.key[:1] == ABOVE else ""
        return [_line(path, error.line, error.key, f"{error.reason}{example}")]
    return [line for document in documents for line in _mistakes_of(path, document)]


def attribute_mistakes(path: Path, error: ValidationError) -> list[str]:
    """One line for each mistake that pydantic found in the attributes of a file."""
    return [_line(path, None, key, reason) for key, reason in messages_by_key(error).items()]


def _mistakes_of(path: Path, document: Document) -> list[str]:
    value = document.value
    if not isinstance(value, dict):
        empty = "nothing after `---`" if value is None else "no keys"
        return [_line(path, document.line(()), (), f"{empty}. {EXAMPLE}.")]
    found: dict[Key, str] = dict(_mistakes_around(value))
    if _is_classifier(document) and isinstance(attributes := value.get("attributes"), dict):
        try:
            ImageClassifierAttributes.model_validate(attributes)
        except ValidationError as error:
            found |= messages_by_key(error)
        folder = path.parent.name
        if not attributes.get("name") and not re.fullmatch(NAME_PATTERN, folder):
            found[_NAME] = f"missing, and the folder's name {folder!r} is not {NAME_WORDS}. Example: name: flowers"
    in_order = sorted(found, key=document.line)
    return [_line(path, document.line(key), key, found[key]) for key in in_order]


def _is_classifier(document: Document) -> bool:
    """Whether a document is for this package's component."""
    return isinstance(document.value, dict) and document.value.get("type") in (TYPE, _LONG_TYPE)


def _mistakes_around(value: dict[Any, Any]) -> Iterator[tuple[Key, str]]:
    """Mistakes outside the attributes."""
    keys, known, kind = {str(key) for key in value}, list(ComponentFileModel.model_fields), value.get("type")
    for key in keys - set(known):
        yield (key,), unknown_key((key,), known)
    meant = {nearest(key, known) for key in keys}
    if "type" not in meant:
        yield ("type",), f"missing. Example: type: {TYPE}"
    elif "type" in keys and not (isinstance(kind, str) and _is_component(kind)):
        named = f" {kind}" if isinstance(kind, str) and _TYPE_NAME.fullmatch(kind) else ""
        near = did_you_mean(str(kind).rpartition(".")[2], _TYPES, _TYPES.__getitem__)
        yield ("type",), f"there is no component{named}.{near} Example: type: {TYPE}"
    misplaced = "attributes" in meant - keys or keys & ImageClassifierAttributes.model_fields.keys()
    if kind in (TYPE, _LONG_TYPE) and not isinstance(value.get("attributes"), dict) and not misplaced:
        found = "expected keys below it" if "attributes" in keys else "missing"
        yield ("attributes",), f"{found}. Example: {ATTRIBUTES}"


def _is_component(kind: str) -> bool:
    """Whether a component of this name exists; Dagster reports its other errors when loading it."""
    module, _, name = kind.rpartition(".")
    # A relative name refers to a module beside the file.
    if kind.startswith("."):
        return True
    try:
        load_module_object(module, name)
    except DagsterUnresolvableSymbolError as error:
        cause = error.__cause__
        # An existing module may fail to import another one.
        return cause is not None and not (isinstance(cause, ModuleNotFoundError) and f"{cause.name}." in f"{module}.")
    except Exception:  # noqa: BLE001 - whatever a module raises when it is imported
        return bool(module)
    return True


def _line(path: Path, line: int | None, key: Iterable[str | int], reason: str) -> str:
    place = f"{path}:{line}" if line else str(path)
    name = ".".join(map(str, key))
    return printable(redact(f"{place}: `{name}`: {reason}" if name else f"{place}: {reason}"))
