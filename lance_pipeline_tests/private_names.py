"""Finds the private names of other packages that this one uses, in its source."""

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = "lance_pipeline"


def is_private(name: str) -> bool:
    """Whether a name is private; ``__double__`` names are Python's own."""
    return name.startswith("_") and not (name.startswith("__") and name.endswith("__")) and name != "_"


def private_names(root: Path) -> dict[str, set[str]]:
    """The private names of other packages, each with the files that use it, relative to ``root``.

    An imported name is given with its module, an attribute as ``….name``.
    """
    trees = {path.relative_to(root).as_posix(): ast.parse(path.read_bytes()) for path in sorted(root.rglob("*.py"))}
    own = {name for tree in trees.values() for name in _defined(tree)}
    found: dict[str, set[str]] = {}
    for path, tree in trees.items():
        for name in [*_imported(tree), *(f"….{name}" for name in _attributes(tree) if name not in own)]:
            found.setdefault(name, set()).add(path)
    return found


def _imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.count("._"):
            # The name of a module, such as one to import in advance.
            names = [node.value] if all(part.isidentifier() for part in node.value.split(".")) else []
        else:
            continue
        yield from (
            name for name in names if not name.startswith(f"{PACKAGE}.") and any(map(is_private, name.split(".")))
        )


def _attributes(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            yield node.attr
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "setattr"):
            yield from (
                one.value
                for one in node.args
                if isinstance(one, ast.Constant) and isinstance(one.value, str) and is_private(one.value)
            )


def _defined(tree: ast.AST) -> Iterator[str]:
    """The private names that a module defines: functions, classes, variables and attributes of ``self``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and isinstance(node.value, ast.Name):
            if node.value.id in ("self", "cls"):
                yield node.attr
        elif isinstance(node, ast.alias):
            yield node.asname or node.name
