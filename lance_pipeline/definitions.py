"""The code location: all that ``lance_pipeline/defs`` defines."""

from pathlib import Path

import dagster as dg

from lance_pipeline.orchestration.isolation import load_datasets


@dg.definitions
def defs() -> dg.Definitions:
    """Every dataset's assets, checks, job and schedule, with the resources that they share."""
    return load_datasets(Path(__file__).parent)
