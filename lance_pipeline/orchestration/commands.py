"""Commands that messages tell people to run."""

import dagster as dg

LIST_COMMAND = "dagster asset list -m lance_pipeline.definitions"


def materialize_command(key: dg.AssetKey) -> str:
    """The command that materializes one asset."""
    return f"dagster asset materialize -m lance_pipeline.definitions --select 'key:\"{key.to_user_string()}\"'"
