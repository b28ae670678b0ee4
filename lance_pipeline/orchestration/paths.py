"""Where the data lives."""

import os
from pathlib import Path

from lance_pipeline.errors import InputError

DATA_VARIABLE = "LANCE_PIPELINE_DATA"


def project_root() -> Path:
    """The source checkout that holds this package, or else the current folder."""
    checkout = Path(__file__).parents[2]
    return checkout if (checkout / "pyproject.toml").is_file() else Path.cwd()


def data_root() -> Path:
    """The local folder of what runs write: ``LANCE_PIPELINE_DATA``, or ``data`` in the project.

    Where ``LANCE_PIPELINE_DATA`` is an object-store URI, everything but the Lance datasets stays in
    the project's ``data``.
    """
    given = os.environ.get(DATA_VARIABLE, "")
    return Path(project_root() / "data" if "://" in given or not given else given).expanduser().absolute()


def lance_root() -> str:
    """The folder or object-store URI of the Lance datasets: ``lance`` in ``LANCE_PIPELINE_DATA``.

    Raises:
        InputError: a local folder cannot be written.
    """
    given = os.environ.get(DATA_VARIABLE, "")
    return f"{given.rstrip('/')}/lance" if "://" in given else str(make_folder(data_root() / "lance"))


def resolve_path(path: str, project: Path) -> str:
    """A path of a ``defs.yaml`` as an absolute one; an object-store URI stays as it is.

    A relative path counts from the project, but below ``data/`` from the data root, so that
    ``LANCE_PIPELINE_DATA`` moves it along.
    """
    if "://" in path:
        return path
    given = Path(path).expanduser()
    if given.parts[:1] == ("data",):
        return str(data_root().joinpath(*given.parts[1:]))
    return str(project / given)


def make_folder(path: Path) -> Path:
    """The folder, made where it was missing.

    Raises:
        InputError: it cannot be made or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot write to the data folder {path}: {error.strerror}. Give yourself the right to write there, "
            f"or set {DATA_VARIABLE} to a folder that you may write to."
        ) from error
    if not os.access(path, os.W_OK):
        raise InputError(
            f"the data folder {path} may not be written. Give yourself the right to write there, "
            f"or set {DATA_VARIABLE} to a folder that you may write to."
        )
    return path
