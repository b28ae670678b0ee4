"""The code location: all that ``lance_pipeline/defs`` defines."""

from pathlib import Path

import dagster as dg


@dg.definitions
def defs() -> dg.Definitions:
    """Every dataset's assets, checks, job and schedule, with the resources that they share."""
    return dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
