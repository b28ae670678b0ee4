"""Removing files and folders."""

import shutil
from pathlib import Path

from lance_pipeline.errors import InputError


def remove(path: Path) -> None:
    """Remove a file or a folder with its content, if it exists; of a link only the link itself.

    Raises:
        InputError: it cannot be removed.
    """
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except FileNotFoundError:
        # Another process has already removed it.
        return
    except OSError as error:
        raise InputError(
            f"cannot remove {path}: {error.strerror or error}. Remove it yourself, or give yourself permission to."
        ) from error
