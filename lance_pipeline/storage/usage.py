"""Disk usage of files and folders."""

import os
from collections.abc import Iterable
from pathlib import Path
from stat import S_ISDIR

_BLOCK = 512


class DiskUsage:
    """Sums the disk usage of files, counting each file once even if it has several hard links.

    A file with several hard links counts where it is first seen. Files that disappear in the meantime are skipped, so
    that a folder can be measured while others write to it. Symbolic links are not followed.
    """

    def __init__(self) -> None:
        self._seen: set[tuple[int, int]] = set()

    def of(self, *paths: str | os.PathLike[str]) -> int:
        """The bytes that these files and folders use, without files counted before."""
        return sum(self._file(entry) for path in paths for entry in _entries(path))

    def _file(self, stat: os.stat_result) -> int:
        identity = stat.st_dev, stat.st_ino
        if identity in self._seen:
            return 0
        self._seen.add(identity)
        return stat.st_blocks * _BLOCK


def freed_by_removing(*paths: str | os.PathLike[str]) -> int:
    """The bytes that removing these files and folders frees: a file with other hard links remains."""
    found: dict[tuple[int, int], tuple[int, os.stat_result]] = {}
    for stat in (stat for path in paths for stat in _entries(path)):
        names, _ = found.get((stat.st_dev, stat.st_ino), (0, stat))
        found[stat.st_dev, stat.st_ino] = names + 1, stat
    return sum(
        stat.st_blocks * _BLOCK
        for names, stat in found.values()
        # The link count of a folder counts its subfolders.
        if names >= stat.st_nlink or S_ISDIR(stat.st_mode)
    )


def _entries(path: str | os.PathLike[str]) -> Iterable[os.stat_result]:
    pending = [Path(path)]
    while pending:
        one = pending.pop()
        try:
            stat = one.lstat()
            yield stat
            if S_ISDIR(stat.st_mode):
                pending.extend(one.iterdir())
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            # Removed in the meantime, or inaccessible to this user, such as lost+found.
            continue
