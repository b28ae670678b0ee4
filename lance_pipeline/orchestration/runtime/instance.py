"""The Dagster instance of this project."""

import os
import shutil

from lance_pipeline.errors import InputError
from lance_pipeline.orchestration.paths import (
    DATA_VARIABLE,
    HOME_VARIABLE,
    dagster_home,
    data_root,
    make_folder,
    project_root,
)


def use_env_file() -> None:
    """Load the file ``.env`` in the current folder, overriding variables that are set, as Dagster's commands do.

    Raises:
        InputError: the file cannot be read.
    """
    if not os.path.exists(".env"):
        return
    from dagster._core.secrets.env_file import get_env_var_dict

    try:
        os.environ |= get_env_var_dict(os.getcwd())
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {os.path.abspath('.env')}: {error}. `make instance` writes it again.") from error


def prepare_instance() -> None:
    """Create the instance for this process and its children, with the project's settings.

    Raises:
        InputError: its folder is given by a relative path, or cannot be written.
    """
    home = dagster_home()
    if not home.is_absolute():
        raise InputError(
            f"{HOME_VARIABLE} is {str(home)!r}; expected an absolute path. Set it to one, or unset it. Where .env "
            f"takes it from {DATA_VARIABLE}, make that an absolute path; for an object store, run `make instance`."
        )
    # The variable that moves the instance elsewhere.
    variable = DATA_VARIABLE if home.is_relative_to(data_root()) else HOME_VARIABLE
    os.environ[HOME_VARIABLE] = str(make_folder(home, variable))
    settings, ours = home / "dagster.yaml", project_root() / "dagster.yaml"
    # A moved checkout leaves a link whose target is gone.
    if not settings.exists() and ours.is_file():
        settings.unlink(missing_ok=True)
        shutil.copyfile(ours, settings)
