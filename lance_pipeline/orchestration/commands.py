"""Commands that messages recommend."""

import dagster as dg

DEFINITIONS = "lance_pipeline.definitions"
LIST_COMMAND = f"dagster asset list -m {DEFINITIONS}"


def materialize_command(key: dg.AssetKey, module: str = DEFINITIONS) -> str:
    """The command that materializes one asset from the definitions in a module."""
    return f"dagster asset materialize -m {module} --select 'key:\"{key.to_user_string()}\"'"
