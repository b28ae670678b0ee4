"""Folders and files that nobody but their user can read, and that nobody else has put in their place."""

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
    """Open a file to read and write, made where it is missing, with mode 0600; the caller closes the descriptor.

    No link is followed and nothing is waited for. A file that others may open is narrowed; in a folder that is shared
    by its group (`is_shared`) it is made for the group.

    Raises:
        OSError: it cannot be opened.
        InputError: it is a link, a folder or no plain file, or somebody else's.
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
        # Another one may have come into its place.
        about = os.fstat(file)
        require_own_file(about, folder, name)
        if about.st_mode & 0o777 & ~mode and about.st_uid == os.geteuid():
            os.fchmod(file, stat.S_IMODE(about.st_mode) & mode)
    except BaseException:
        os.close(file)
        raise
    return file


def require_own_file(about: os.stat_result, folder: os.stat_result, name: str) -> None:
    """Check that a file is plain and the user's, or of the owner of the folder, or of those who share it.

    Raises:
        InputError: it is not.
    """
    if not stat.S_ISREG(about.st_mode):
        kind = "a link" if stat.S_ISLNK(about.st_mode) else "a folder" if stat.S_ISDIR(about.st_mode) else "a device"
        raise InputError(
            f"{name} is {kind}; expected a plain file of this program's. Find out who made it, and remove it."
        )
    if about.st_uid not in (os.geteuid(), folder.st_uid) and not is_shared(folder):
        raise InputError(
            f"{name} belongs to {_user(about.st_uid)}; expected a file of {_user(os.geteuid())}'s. Find out who made "
            "it, and remove it."
        )


def is_shared(folder: os.stat_result) -> bool:
    """Whether a folder is meant for its group: it has the setgid bit, its group may write, and others may not."""
    return folder.st_mode & (stat.S_ISGID | 0o022) == stat.S_ISGID | 0o020


def make_private(folder: Path) -> Path:
    """Make a folder of the user's alone, or narrow it to that; returns it.

    Raises:
        OSError: it cannot be made.
        InputError: it is a link or somebody else's.
    """
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        about = folder.lstat()
        if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.geteuid():
            raise InputError(
                f"{folder} is not a folder of {_user(os.geteuid())}'s, but is to keep locks. Find out who made it, and "
                "remove it."
            ) from None
        if about.st_mode & _OTHERS:
            folder.chmod(0o700)
    return folder


def narrow(folder: Path, *, look: bool = False) -> None:
    """Take a folder that is the user's, and all in it, from everybody else.

    Links, other disks, folders that are shared by their group and those that are private already are left as they are.

    Args:
        folder: the folder.
        look: narrow what is in it even where it is private itself.
    """
    about = folder.lstat()
    if not stat.S_ISDIR(about.st_mode) or not (narrow_folder(folder) or look):
        return
    for entry in os.scandir(folder):
        # Databases come and go with files beside them.
        with suppress(FileNotFoundError):
            inner = entry.stat(follow_symlinks=False)
            if inner.st_uid != about.st_uid or inner.st_dev != about.st_dev:
                continue
            if stat.S_ISDIR(inner.st_mode):
                narrow(Path(entry.path))
            elif stat.S_ISREG(inner.st_mode) and inner.st_mode & _OTHERS:
                os.chmod(entry.path, stat.S_IMODE(inner.st_mode) & ~_OTHERS)


def narrow_folder(folder: Path) -> bool:
    """Take a folder, or what a link to one leads to, from everybody else, if it is the user's; whether that was done.

    One that is shared by its group stays as it is.
    """
    about = folder.stat()
    if about.st_uid != os.geteuid() or not about.st_mode & _OTHERS or is_shared(about):
        return False
    try:
        os.chmod(folder, stat.S_IMODE(about.st_mode) & ~(_OTHERS | stat.S_ISGID))
    except OSError as error:
        # Some file systems are read-only, or know no modes.
        _logger.warning("Others may be able to read %s: its mode cannot be changed (%s).", folder, error.strerror)
        return False
    return True


def user_folder() -> Path:
    """The folder of this user's locks on this host, made with mode 0700.

    It is ``lance-pipeline`` in the first of these that is there and the user's own: ``$XDG_RUNTIME_DIR``;
    ``/run/user/<number>``, the same for a job without that variable; ``.local/state`` in the user's home, with a folder
    for each host, as a home may be shared. For users without a home it is ``lance-pipeline-<number>`` in the folder for
    temporary files. Only this last one depends on TMPDIR, and none on LANCE_PIPELINE_DATA. Runs of one user find each
    other unless the first two are there for some of them alone, such as a job that began before its user logged in.

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
        f"there is no folder for locks ({'; '.join(problems)}). Set XDG_RUNTIME_DIR to a folder of your own with mode "
        "0700."
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
