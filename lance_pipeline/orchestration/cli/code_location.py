"""The definitions of a code location, for commands."""

import importlib
from collections.abc import Mapping

import dagster as dg
from dagster.components.definitions import LazyDefinitions

from lance_pipeline.errors import InputError


def asset_specs(module: str) -> list[dg.AssetSpec]:
    """All assets of a code location; see ``_definitions`` for arguments and errors."""
    return list(_definitions(module).resolve_all_asset_specs())


def job_metadata(module: str) -> dict[str, Mapping[str, dg.MetadataValue]]:
    """The metadata of all jobs of a code location, by job name; see ``_definitions`` for arguments and errors."""
    jobs = (job for job in _definitions(module).jobs or () if isinstance(job, dg.JobDefinition))
    return {job.name: job.metadata for job in jobs}


def _definitions(module: str) -> dg.Definitions:
    """The definitions of a code location.

    Args:
        module: module of the definitions, as Dagster's ``-m`` takes it.

    Raises:
        InputError: the module does not exist, or has no definitions.
    """
    try:
        found = list(vars(importlib.import_module(module)).values())
    except ModuleNotFoundError as error:
        raise InputError(f"{error}; expected the module of the definitions, as Dagster's `-m` takes it.") from error
    lazy = (one(None) if one.has_context_arg else one() for one in found if isinstance(one, LazyDefinitions))
    definitions = next((one for one in (*found, *lazy) if isinstance(one, dg.Definitions)), None)
    if definitions is None:
        raise InputError(f"the module {module} has no definitions; expected one as Dagster's `-m` takes it.")
    return definitions
