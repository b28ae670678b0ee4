"""The Dagster instance of this project."""

import os
import shutil
from pathlib import Path

from lance_pipeline.orchestration.paths import data_root, make_folder, project_root


def prepare_instance() -> None:
    """Make this process's instance, of DAGSTER_HOME or else in the data folder, with the project's settings.

    Raises:
        InputError: its folder cannot be written.
    """
    home = make_folder(Path(os.environ.setdefault("DAGSTER_HOME", str(data_root() / "dagster"))))
    settings, ours = home / "dagster.yaml", project_root() / "dagster.yaml"
    # A link whose target is gone is left by a checkout that was moved.
    if not settings.exists() and ours.is_file():
        settings.unlink(missing_ok=True)
        shutil.copyfile(ours, settings)
