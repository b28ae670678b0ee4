"""Makes `dg check yaml` find all mistakes in a project's datasets."""

from pathlib import Path

import click

from lance_pipeline.orchestration.defs_yaml.checking import broken_folders
from lance_pipeline.orchestration.defs_yaml.folders import component_folders


def fail_dg_check() -> None:
    """In `dg check`, fail if a dataset of the project is broken; elsewhere do nothing.

    On its own, that command accepts an empty file or a duplicate key, and suggests no nearest key. It asks each
    component for its schema; this is the only point where it runs a component's code.

    Raises:
        click.ClickException: a dataset is broken; the mistakes are shown without a stack trace.
    """
    context = click.get_current_context(silent=True)
    if context is None or context.parent is None or context.parent.info_name != "check":
        return
    from dagster_dg_core.context import DgContext

    project = DgContext.from_file_discovery_and_command_line_config(context.params["target_path"], {})
    if not project.is_project:
        return
    chosen = [one.absolute() for one in map(Path, context.params.get("paths", ()))]
    broken = broken_folders(component_folders(project.defs_path))
    shown = [
        error
        for folder, error in broken.items()
        if not chosen or any(one in (folder, *folder.parents, folder / "defs.yaml") for one in chosen)
    ]
    if shown:
        raise click.ClickException("\n".join(shown))
