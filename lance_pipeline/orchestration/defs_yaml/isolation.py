"""Isolates a broken ``defs.yaml`` from the other datasets."""

import glob
import logging
import multiprocessing
import os
import re
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType

import dagster as dg
from dagster.components.core.defs_module import EXPLICITLY_IGNORED_GLOB_PATTERNS

from lance_pipeline.errors import ExplainedError, InputError
from lance_pipeline.orchestration.defs_yaml.checking import broken_folders
from lance_pipeline.orchestration.defs_yaml.folders import component_folders, yaml_file
from lance_pipeline.storage.redacted_errors import without_secrets
from lance_pipeline.storage.redaction import redact

BROKEN = "broken"
"""The last part of the key, and the kind, of the asset that represents a broken dataset."""
# Markdown joins single lines.
_PARAGRAPH = "\n\n"
# Dagster sets this in `dagster definitions validate` and `dg check defs`.
_VALIDATING = "DAGSTER_IS_DEFS_VALIDATION_CLI"
_logger = logging.getLogger(__name__)


def load_datasets(package: Path) -> dg.Definitions:
    """All definitions in the folder ``defs`` of a package; a broken dataset fails alone.

    Dagster itself loads either all datasets or none. Here a dataset whose ``defs.yaml`` cannot be loaded becomes a
    group with one asset, whose description lists the mistakes and which fails with them. Each load logs them too.

    Args:
        package: the folder that contains ``defs``.

    Raises:
        InputError: a dataset is broken and a command such as `dagster definitions validate` runs; or ``defs`` is.
        Exception: Dagster's own error, if the cause lies elsewhere.
    """
    defs = package / "defs"
    folders = component_folders(defs)
    broken = _with_namesakes(folders, broken_folders(folders))
    if defs in broken:
        raise InputError(broken[defs].splitlines())
    try:
        definitions = _load(package, broken)
    except Exception:
        more = _with_namesakes(folders, broken | _broken_for_dagster(folders, broken))
        if more.keys() == broken.keys():
            raise
        broken = more
        definitions = _load(package, broken)
    if broken and os.environ.get(_VALIDATING):
        raise InputError([line for error in broken.values() for line in error.splitlines()])
    for error in broken.values():
        _log_once(error)
    taken = {key.path[0] for key in _asset_keys(definitions)}
    failing = [_failing_asset(_name(folder, taken), error) for folder, error in sorted(broken.items())]
    return dg.Definitions.merge(definitions, dg.Definitions(assets=failing)) if failing else definitions


def broken_reason(spec: dg.AssetSpec) -> list[str]:
    """The mistakes of the broken dataset that an asset represents, one per line; empty for other assets."""
    return (spec.description or "").split(_PARAGRAPH) if BROKEN in spec.kinds else []


@cache
def _log_once(error: str) -> None:
    # Steps are started by a process that has logged it already. Commands load definitions more than once.
    if multiprocessing.parent_process() is None:
        _logger.error("A dataset cannot be loaded; the others are. %s", error)


def _load(package: Path, broken: Iterable[Path]) -> dg.Definitions:
    with without_secrets(), _passing_over(broken):
        definitions = dg.load_from_defs_folder(path_within_project=package)
        dg.Definitions.validate_loadable(definitions)
    return definitions


def _with_namesakes(folders: Iterable[Path], broken: dict[Path, str]) -> dict[Path, str]:
    """The broken folders, plus those that Dagster has to skip along with them."""
    names = {folder.name for folder in broken}
    for folder in folders:
        if folder in broken:
            continue
        above = next((one for one in broken if one in folder.parents), None)
        if above is not None:
            broken = broken | {folder: f"{yaml_file(folder)}: the folder {above} around it is broken."}
        elif folder.name in names:
            # Dagster skips folders by name.
            broken = broken | {folder: f"{yaml_file(folder)}: another folder named {folder.name} is broken."}
    return broken


def _broken_for_dagster(folders: Iterable[Path], known: dict[Path, str]) -> dict[Path, str]:
    """Folders that Dagster cannot load along with those before them: failing templates, other components' errors."""
    broken: dict[Path, str] = {}
    owners: dict[dg.AssetKey, Path] = {}
    for folder in (one for one in folders if one not in known):
        try:
            with _passing_over({**known, **broken}):
                keys = _asset_keys(_load_alone(folder))
            for key in sorted(keys & owners.keys()):
                # A folder includes the assets of the folders inside it.
                if folder not in owners[key].parents:
                    other = yaml_file(owners[key])
                    raise InputError(f"{yaml_file(folder)} defines {key.to_user_string()}, as does {other}.")
            owners |= dict.fromkeys(keys, folder)
        except Exception as error:  # noqa: BLE001 - a template may raise anything
            broken[folder] = _shown(folder, error)
    return broken


def _load_alone(folder: Path) -> dg.Definitions:
    module = ModuleType(folder.name)
    module.__file__ = str(folder / "__init__.py")
    return dg.ComponentTree.from_module(module, folder).build_defs(folder)


def _asset_keys(definitions: dg.Definitions) -> set[dg.AssetKey]:
    # Do not resolve the definitions: the resources are defined elsewhere.
    assets = [asset for asset in definitions.assets or () if isinstance(asset, dg.AssetsDefinition)]
    return {key for asset in assets for key in asset.keys}


def _shown(folder: Path, error: BaseException) -> str:
    """The root cause of Dagster's error, with the file that it is in."""
    while error.__cause__ is not None:
        error = error.__cause__
    told = str(error) if isinstance(error, ExplainedError) else "".join(traceback.format_exception_only(error))
    text = redact(told.strip())
    return text if str(folder) in text else f"{yaml_file(folder)}: {text}"


@contextmanager
def _passing_over(folders: Iterable[Path]) -> Iterator[None]:
    """Make Dagster skip these folders within the context, as it skips hidden ones."""
    before = list(EXPLICITLY_IGNORED_GLOB_PATTERNS)
    EXPLICITLY_IGNORED_GLOB_PATTERNS.extend(glob.escape(folder.name) for folder in folders)
    try:
        yield
    finally:
        EXPLICITLY_IGNORED_GLOB_PATTERNS[:] = before


def _name(folder: Path, taken: set[str]) -> str:
    """A unique name for the dataset's group, derived from the folder's name."""
    name = re.sub(r"[^A-Za-z0-9_]", "_", folder.name)
    while name in taken:
        name += "_broken"
    taken.add(name)
    return name


def _failing_asset(dataset: str, error: str) -> dg.AssetsDefinition:
    """The only asset of a dataset that cannot be loaded."""

    @dg.asset(
        key=[dataset, BROKEN],
        group_name=dataset,
        description=error.replace("\n", _PARAGRAPH),
        kinds={BROKEN},
    )
    def broken() -> None:
        raise dg.Failure(description=error, allow_retries=False)

    return broken
