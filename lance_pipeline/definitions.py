"""The code location: all that ``lance_pipeline/defs`` defines."""

from pathlib import Path

import dagster as dg

from lance_pipeline.orchestration.defs_yaml.isolation import load_datasets
from lance_pipeline.orchestration.runtime.own_process import keep_to_the_user


@dg.definitions
def defs() -> dg.Definitions:
    """Every dataset's assets, checks, job and schedule, with the resources that they share."""
    keep_to_the_user()
    return load_datasets(Path(__file__).parent)
