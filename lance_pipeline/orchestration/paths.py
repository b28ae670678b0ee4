"""Paths of the data folder and everything in it."""

import os
import stat
from contextlib import suppress
from pathlib import Path

from lance_pipeline.errors import InputError
from lance_pipeline.storage.addresses import require_no_user
from lance_pipeline.storage.private import is_shared, restrict_folder
from lance_pipeline.storage.uris import is_remote, normalized_uri

DATA_VARIABLE = "LANCE_PIPELINE_DATA"
HOME_VARIABLE = "DAGSTER_HOME"
IN_DATA = {"README.md", "cache", "checkpoints", "dagster", "lance", "mlflow", "models", "raw", "reports"}
"""The names of everything that a data folder contains."""


def project_root() -> Path:
    """The source checkout that contains this package, or else the current folder."""
    checkout = Path(__file__).parents[2]
    return checkout if (checkout / "pyproject.toml").is_file() else Path.cwd()


def data_root() -> Path:
    """The local folder of everything that runs write: ``LANCE_PIPELINE_DATA``, or ``data`` in the project.

    If ``LANCE_PIPELINE_DATA`` is an object-store URI, everything but the Lance datasets stays in
    the project's ``data``.
    """
    given = os.environ.get(DATA_VARIABLE, "")
    return Path(normalized_uri(project_root() / "data" if is_remote(given) or not given else given))


def dagster_home() -> Path:
    """The folder of Dagster's instance, which may not exist: ``DAGSTER_HOME``, or ``dagster`` in the data folder."""
    return Path(os.environ.get(HOME_VARIABLE) or data_root() / "dagster").expanduser()


def lance_root() -> str:
    """The folder or object-store URI of the Lance datasets: ``lance`` in ``LANCE_PIPELINE_DATA``.

    Raises:
        InputError: a local folder cannot be written, or the URI contains credentials.
    """
    place = lance_place()
    return place if is_remote(place) else str(make_folder(Path(place)))


def lance_place() -> str:
    """Like ``lance_root``, but the folder may not exist."""
    given = os.environ.get(DATA_VARIABLE, "")
    require_no_user(given)
    return f"{normalized_uri(given)}/lance" if is_remote(given) else str(data_root() / "lance")


def resolve_path(path: str, project: Path) -> str:
    """The absolute path or the object-store URI for a path or URI in a ``defs.yaml``.

    A relative path starts at the project, but one below ``data/`` starts at the data root, so that
    ``LANCE_PIPELINE_DATA`` moves it too.
    """
    if is_remote(path) or path.lower().startswith("file:/"):
        return normalized_uri(path)
    given = Path(path).expanduser()
    if given.parts[:1] == ("data",):
        return str(data_root().joinpath(*given.parts[1:]))
    return str(project / given)


def make_folder(path: Path, variable: str = DATA_VARIABLE) -> Path:
    """Create a folder if missing; below the data root for this user only, regardless of the umask.

    Args:
        path: the path of the folder.
        variable: the environment variable that moves it elsewhere.

    Raises:
        InputError: it cannot be created or written to.
    """
    try:
        root = data_root()
        if path.is_relative_to(root):
            root.parent.mkdir(parents=True, exist_ok=True)
            _make_own(root)
            narrow_data(root)
            _make_first(root, path)
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        there = next(one for one in (path, *path.parents) if os.path.lexists(one))
        reason = error.strerror if os.path.isdir(there) else f"{there} is not a folder"
        raise _not_writable(path, variable, reason) from error
    if not os.access(path, os.W_OK):
        raise _not_writable(path, variable, "Permission denied")
    return path


def _not_writable(path: Path, variable: str, reason: str | None) -> InputError:
    return InputError(
        f"cannot write to the data folder {path}: {reason}. Give yourself the right to write there, or set {variable} "
        "to a folder that you may write to."
    )


def private_umask() -> int:
    """The umask below the data root: access for this user only, or also for the group that shares the data."""
    root = data_root()
    return 0o007 if os.path.isdir(root) and is_shared(root.stat()) else 0o077


def narrow_data(root: Path) -> None:
    """Remove the access of other users to the data root.

    A root that contains other things, such as a home directory, keeps its mode; the folders below it are restricted
    instead. A root that its group shares (it has the setgid bit), or that another user owns, also keeps its mode.
    """
    if (
        os.access(root, os.R_OK | os.X_OK)
        and os.path.isdir(root)
        and {entry.name for entry in os.scandir(root)} <= IN_DATA
    ):
        restrict_folder(root)


def _make_first(root: Path, path: Path) -> None:
    """Create the folder directly below the root that contains a path, or remove other users' access to it."""
    for name in path.relative_to(root).parts[:1]:
        first = root / name
        _make_own(first)
        # The user chose the target of a link or a mounted disk: keep its mode.
        if not first.is_symlink() and first.stat().st_dev == root.stat().st_dev and not is_shared(root.stat()):
            restrict_folder(first)


def _make_own(folder: Path) -> None:
    """Create a folder for this user, and for a group that shares the data; an existing one keeps its mode."""
    with suppress(FileExistsError):
        folder.mkdir()
        folder.chmod(stat.S_IMODE(folder.stat().st_mode) & stat.S_ISGID | ~private_umask() & 0o777)
