"""The resources and the executor that all datasets share."""

import dagster as dg

from lance_pipeline.orchestration.executor import default_executor
from lance_pipeline.orchestration.resources import default_resources


@dg.definitions
def resources() -> dg.Definitions:
    """One set for the whole code location."""
    return dg.Definitions(resources=default_resources(), executor=default_executor())
