"""One broken ``defs.yaml`` does not take the other data sets down."""

import glob
import logging
import re
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType

import dagster as dg
import yaml
from dagster.components.core.defs_module import EXPLICITLY_IGNORED_GLOB_PATTERNS

from lance_pipeline.errors import InputError
from lance_pipeline.orchestration.dataset import SPLITS
from lance_pipeline.storage.redacted_errors import without_secrets
from lance_pipeline.storage.redaction import redact

_logger = logging.getLogger(__name__)


def load_datasets(package: Path) -> dg.Definitions:
    """All that the folder ``defs`` of a package defines; what is broken in it fails by itself.

    Dagster alone loads all data sets or none. Here the assets of a data set whose ``defs.yaml`` cannot be loaded
    stay, with the error as their description, and fail with it. It is logged at each load.

    Args:
        package: the folder that holds ``defs``.

    Raises:
        Exception: what Dagster raises where the error lies elsewhere, or no data set can be loaded.
    """
    try:
        with without_secrets():
            definitions = dg.load_from_defs_folder(path_within_project=package)
            dg.Definitions.validate_loadable(definitions)
        return definitions
    except Exception:
        folders = _component_folders(package / "defs")
        broken = _broken(folders)
        if not broken or len(broken) == len(folders):
            raise
    for error in broken.values():
        _logger.error("A data set cannot be loaded; the others are. %s", error)
    with _passing_over(broken):
        definitions = dg.load_from_defs_folder(path_within_project=package)
    taken = _datasets(definitions)
    failing = [_failing_assets(_name(folder, taken), error) for folder, error in broken.items()]
    return dg.Definitions.merge(definitions, dg.Definitions(assets=failing))


def _component_folders(defs: Path) -> list[Path]:
    """The folders with a ``defs.yaml``, those inside others first."""
    folders = {path.parent for pattern in ("defs.yaml", "defs.yml") for path in defs.rglob(pattern)}
    return sorted(folders, key=lambda folder: (-len(folder.parts), folder))


def _broken(folders: list[Path]) -> dict[Path, str]:
    """What is wrong with each folder that cannot be loaded beside those before it."""
    broken: dict[Path, str] = {}
    owners: dict[dg.AssetKey, Path] = {}
    for folder in folders:
        try:
            with _passing_over(broken):
                keys = _asset_keys(_load_alone(folder))
            for key in sorted(keys & owners.keys()):
                # A folder of folders has the assets of those below it.
                if folder not in owners[key].parents:
                    raise InputError(
                        f"{folder}/defs.yaml defines {key.to_user_string()}, as does {owners[key]}/defs.yaml. "
                        "Set another `name`."
                    )
            owners |= dict.fromkeys(keys, folder)
        except Exception as error:  # noqa: BLE001 - a template may raise anything
            broken[folder] = _shown(folder, error)
    names = {folder.name for folder in broken}
    for folder in folders:
        # Dagster passes over folders by name.
        if folder.name in names and folder not in broken:
            broken[folder] = f"{folder}/defs.yaml: another folder named {folder.name} is broken."
    return broken


def _load_alone(folder: Path) -> dg.Definitions:
    module = ModuleType(folder.name)
    module.__file__ = str(folder / "__init__.py")
    return dg.ComponentTree.from_module(module, folder).build_defs(folder)


def _asset_keys(definitions: dg.Definitions) -> set[dg.AssetKey]:
    # Without resolving them: the resources are defined elsewhere.
    assets = [asset for asset in definitions.assets or () if isinstance(asset, dg.AssetsDefinition)]
    return {key for asset in assets for key in asset.keys}


def _datasets(definitions: dg.Definitions) -> set[str]:
    return {key.path[0] for key in _asset_keys(definitions)}


def _shown(folder: Path, error: BaseException) -> str:
    """The error that Dagster's own were raised from, with the file that it is in."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = redact("".join(traceback.format_exception_only(error)).strip())
    return text if str(folder) in text else f"{folder}/defs.yaml: {text}"


@contextmanager
def _passing_over(folders: Mapping[Path, str]) -> Iterator[None]:
    """Within, Dagster does not see these folders, as it does not see hidden ones."""
    before = list(EXPLICITLY_IGNORED_GLOB_PATTERNS)
    EXPLICITLY_IGNORED_GLOB_PATTERNS.extend(glob.escape(folder.name) for folder in folders)
    try:
        yield
    finally:
        EXPLICITLY_IGNORED_GLOB_PATTERNS[:] = before


def _name(folder: Path, taken: set[str]) -> str:
    """The data set's name, as far as that can be told; one that no other data set has."""
    name = folder.name
    with suppress(OSError, ValueError, yaml.YAMLError, LookupError, TypeError):
        name = yaml.safe_load((folder / "defs.yaml").read_text())["attributes"]["name"]
    name = re.sub(r"\W", "_", str(name))
    while name in taken:
        name += "_broken"
    taken.add(name)
    return name


def _failing_assets(dataset: str, error: str) -> dg.AssetsDefinition:
    """The assets of a data set, each of which fails with the error."""

    def spec(name: str, *upstream: str) -> dg.AssetSpec:
        deps = [[dataset, one] for one in upstream]
        return dg.AssetSpec([dataset, name], deps=deps, group_name=dataset, description=error, kinds={"broken"})

    splits = [f"lance_{split}" for split in SPLITS]
    specs = [
        spec("raw_images"),
        *(spec(split, "raw_images") for split in splits),
        spec("resnet34", *splits[:2]),
        *(spec(f"metrics_{split}", "resnet34", f"lance_{split}") for split in SPLITS[1:]),
    ]

    @dg.multi_asset(specs=specs, name=f"{dataset}__broken", can_subset=True)
    def broken():
        raise dg.Failure(description=f"The data set cannot be loaded. {error}", allow_retries=False)

    return broken
