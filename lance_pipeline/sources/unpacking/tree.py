"""Writing the members of an archive below a folder."""

import errno
import os
import shutil
from pathlib import Path, PurePosixPath
from typing import IO

from lance_pipeline.display import shortened
from lance_pipeline.sources.unpacking.limited_reader import LimitedReader, UnusableArchiveError

_BLOCK_BYTES = 1 << 18
_DEEPEST = 100
_UNPACK_YOURSELF = "Unpack it yourself under other names and set `source: {folder: …}`, or report it to its publisher."
# Errors for names that are too long or contain characters that the disk does not support.
_NAME_ERRORS = (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ)
# Added by macOS at the top level: copies of attributes, which are not part of the dataset.
_MACOS_FOLDER, _MACOS_FILE, _MACOS_COPY = "__MACOSX", ".DS_Store", "._"


class Tree:
    """Writes members below a folder, with default permissions and times, and never overwrites a member.

    Args:
        folder: an empty folder.
        meter: counts each file and folder.
    """

    def __init__(self, folder: Path, meter: LimitedReader) -> None:
        self._folder, self._meter = folder, meter
        self._last = folder
        # On such disks, as on macOS, folders that differ only in case would be merged silently.
        self._ignores_case = folder.with_name(folder.name.swapcase()).exists()

    def add(self, name: str, stream: IO[bytes] | None) -> None:
        """Write a file, or create a folder if ``stream`` is None.

        Raises:
            InputError: there are too many files and folders.
            UnusableArchiveError: the name leads out of the folder, conflicts with another one, or is not supported.
            OSError: it cannot be written.
        """
        parts = self._parts(name, is_file=stream is not None)
        if parts and (parts[0] in (_MACOS_FOLDER, _MACOS_FILE) or parts[0].startswith(_MACOS_COPY)):
            self._meter.count_members(1)
            while stream is not None and stream.read(_BLOCK_BYTES):
                pass
            return
        try:
            if stream is None:
                made = self._make_folders(parts, name)
                self._meter.count_members(0 if made else 1)
            else:
                self._make_folders(parts[:-1], name)
                self._meter.count_members(1)
                self._write(self._folder.joinpath(*parts), stream, name)
        except OSError as error:
            if error.errno not in _NAME_ERRORS:
                raise
            reason = "is too long for" if error.errno == errno.ENAMETOOLONG else "cannot be written on"
            raise UnusableArchiveError(
                f"has a member whose name {reason} this disk: {shortened('/'.join(parts))}. {_UNPACK_YOURSELF}"
            ) from error

    def _parts(self, name: str, *, is_file: bool) -> tuple[str, ...]:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise UnusableArchiveError(
                f"is not safe to unpack: its member '{shortened(name)}' would leave the folder. Use another archive, "
                "or report it to its publisher."
            )
        if len(path.parts) > _DEEPEST:
            raise UnusableArchiveError(
                f"has a member more than {_DEEPEST} folders deep: {shortened(name)}. {_UNPACK_YOURSELF}"
            )
        if is_file and not path.parts:
            raise UnusableArchiveError(f"has a member without a name. {_UNPACK_YOURSELF}")
        return path.parts

    def _make_folders(self, parts: tuple[str, ...], name: str) -> bool:
        """Create a folder and its parents; returns whether any was created."""
        path, made = self._folder, False
        if self._folder.joinpath(*parts) == self._last:
            return False
        for part in parts:
            path /= part
            try:
                os.mkdir(path)
            except FileExistsError:
                if not path.is_dir():
                    raise _conflict(name, "a file has the name of a folder") from None
                if self._ignores_case:
                    _require_own_entry(path, name)
            else:
                made = True
                self._meter.count_members(1)
        self._last = path
        return made

    def _write(self, path: Path, stream: IO[bytes], name: str) -> None:
        try:
            file = open(path, "xb")  # noqa: SIM115 - closed below, outside of this handler
        except FileExistsError:
            if path.is_dir():
                raise _conflict(name, "a file has the name of a folder") from None
            _require_own_entry(path, name)
            if not _holds(path, stream):
                raise _conflict(name, "two files with different content have this name") from None
            return
        with file:
            shutil.copyfileobj(stream, file, _BLOCK_BYTES)


def _conflict(name: str, reason: str) -> UnusableArchiveError:
    return UnusableArchiveError(f"has conflicting names at '{shortened(name)}': {reason}. {_UNPACK_YOURSELF}")


def _require_own_entry(path: Path, name: str) -> None:
    """Check that an existing entry has exactly this name, on disks that ignore case.

    Raises:
        UnusableArchiveError: it has a different name.
    """
    if path.name not in os.listdir(path.parent):
        raise _conflict(name, "this disk does not distinguish it from another name, which may differ only in case")


def _holds(path: Path, stream: IO[bytes]) -> bool:
    """Whether the file has the same content as the stream."""
    with open(path, "rb") as file:
        while block := stream.read(_BLOCK_BYTES):
            if file.read(len(block)) != block:
                return False
        return not file.read(1)
