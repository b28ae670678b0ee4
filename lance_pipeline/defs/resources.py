"""The resources, the executor and the maintenance shared by all datasets."""

import dagster as dg

from lance_pipeline.orchestration.automation import build_maintenance_job
from lance_pipeline.orchestration.resources import default_resources
from lance_pipeline.orchestration.runtime.executor import default_executor


@dg.definitions
def resources() -> dg.Definitions:
    """One set of resources for the whole code location."""
    shared = dg.Definitions(resources=default_resources(), executor=default_executor())
    return dg.Definitions.merge(shared, build_maintenance_job())
