"""Folders and files that only their user can access, protected against ones planted by other users."""

import logging
import os
import pwd
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from lance_pipeline.errors import InputError

_logger = logging.getLogger(__name__)
_OTHERS = 0o077
_APPLICATION = "lance-pipeline"


def open_private(path: str | Path) -> int:
    """Open a file for reading and writing; created with mode 0600 if missing. The caller closes the descriptor.

    Links are not followed, and opening never blocks. A file that others may open loses those permissions; in a folder
    shared by its group (`is_shared`) the file is accessible to the group.

    Raises:
        OSError: it cannot be opened.
        InputError: it is not a regular file, or belongs to another user.
    """
    name, folder = os.fspath(path), os.stat(os.path.dirname(os.path.abspath(path)))
    mode = 0o660 if is_shared(folder) else 0o600
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        file = os.open(name, flags | os.O_CREAT | os.O_EXCL, mode)
        os.fchmod(file, mode)
        return file
    except FileExistsError:
        require_own_file(os.lstat(name), folder, name)
        file = os.open(name, flags)
    try:
        # It may have been replaced since the check above.
        about = os.fstat(file)
        require_own_file(about, folder, name)
        if about.st_mode & 0o777 & ~mode and about.st_uid == os.geteuid():
            os.fchmod(file, stat.S_IMODE(about.st_mode) & mode)
    except BaseException:
        os.close(file)
        raise
    return file


def require_own_file(about: os.stat_result, folder: os.stat_result, name: str) -> None:
    """Check that a file is regular and owned by the user or the owner of its folder; any owner in a shared folder.

    Raises:
        InputError: it is not.
    """
    if not stat.S_ISREG(about.st_mode):
        kind = "a link" if stat.S_ISLNK(about.st_mode) else "a folder" if stat.S_ISDIR(about.st_mode) else "a device"
        raise InputError(
            f"{name} is {kind}; expected a regular file of this program. Find out who created it, and remove it."
        )
    if about.st_uid not in (os.geteuid(), folder.st_uid) and not is_shared(folder):
        raise InputError(
            f"{name} belongs to {_user(about.st_uid)}; expected a file that belongs to {_user(os.geteuid())}. Find out "
            "who created it, and remove it."
        )


def is_shared(folder: os.stat_result) -> bool:
    """Whether a folder is shared by its group: setgid bit set, writable by the group, not writable by others."""
    return folder.st_mode & (stat.S_ISGID | 0o022) == stat.S_ISGID | 0o020


def make_private(folder: Path) -> Path:
    """Create a folder that only the user can access, or restrict an existing one; returns it.

    Raises:
        OSError: it cannot be created.
        InputError: it is a link, or belongs to another user.
    """
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        about = folder.lstat()
        if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.geteuid():
            raise InputError(
                f"{folder}, the folder for lock files, is not a folder that belongs to {_user(os.geteuid())}. Find out "
                "who created it, and remove it."
            ) from None
        if about.st_mode & _OTHERS:
            folder.chmod(0o700)
    return folder


def restrict_tree(folder: Path, *, always_descend: bool = False) -> None:
    """Remove everybody else's access to a folder of the user and to everything in it.

    Links, other disks, folders shared by their group and folders that are already private are left unchanged.

    Args:
        folder: the folder.
        always_descend: restrict the content even if the folder itself is already private.
    """
    about = folder.lstat()
    if not stat.S_ISDIR(about.st_mode) or not (restrict_folder(folder) or always_descend):
        return
    for entry in os.scandir(folder):
        # SQLite creates and removes files beside its databases.
        with suppress(FileNotFoundError):
            inner = entry.stat(follow_symlinks=False)
            if inner.st_uid != about.st_uid or inner.st_dev != about.st_dev:
                continue
            if stat.S_ISDIR(inner.st_mode):
                restrict_tree(Path(entry.path))
            elif stat.S_ISREG(inner.st_mode) and inner.st_mode & _OTHERS:
                os.chmod(entry.path, stat.S_IMODE(inner.st_mode) & ~_OTHERS)


def restrict_folder(folder: Path) -> bool:
    """Remove everybody else's access to a folder, or a link's target, that belongs to the user.

    A folder shared by its group is left unchanged.

    Returns:
        Whether its mode was changed.
    """
    about = folder.stat()
    if about.st_uid != os.geteuid() or not about.st_mode & _OTHERS or is_shared(about):
        return False
    try:
        os.chmod(folder, stat.S_IMODE(about.st_mode) & ~(_OTHERS | stat.S_ISGID))
    except OSError as error:
        # Some file systems are read-only, or do not support modes.
        _logger.warning("Others may be able to read %s: its mode cannot be changed (%s).", folder, error.strerror)
        return False
    return True


def user_folder() -> Path:
    """The folder for this user's locks on this host, created with mode 0700.

    It is ``lance-pipeline`` in the first of these that exists and is owned by the user: ``$XDG_RUNTIME_DIR``;
    ``/run/user/<number>``, the same for a job without that variable; ``.local/state`` in the user's home, with one
    folder per host, because homes may be shared. For users without a home it is ``lance-pipeline-<number>`` in the
    folder for temporary files. Only this last one depends on TMPDIR, and none on LANCE_PIPELINE_DATA. All runs of a
    user use the same folder, unless the first two exist for only some of them: a job may have started before its user
    logged in.

    Raises:
        InputError: none of them can be used.
    """
    problems = []
    for folder in _own_folders():
        try:
            return make_private(folder)
        except OSError as error:
            problems.append(f"{folder}: {error.strerror}")
        except InputError as error:
            problems.append(str(error))
    raise InputError(
        f"no folder for lock files can be used ({'; '.join(problems)}). Set XDG_RUNTIME_DIR to a folder of your own "
        "with mode 0700."
    )


def _own_folders() -> Iterator[Path]:
    user = os.geteuid()
    for parent in filter(None, (os.environ.get("XDG_RUNTIME_DIR"), f"/run/user/{user}")):
        if os.path.isabs(parent) and os.path.isdir(parent):
            about = os.stat(parent)
            if about.st_uid == user and not about.st_mode & _OTHERS:
                yield Path(parent, _APPLICATION)
    home = Path.home()
    if home != Path("/") and home.is_dir() and home.stat().st_uid == user:
        yield home / ".local" / "state" / _APPLICATION / socket.gethostname()
    yield Path(tempfile.gettempdir(), f"{_APPLICATION}-{user}")


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"
