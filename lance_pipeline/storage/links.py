"""Hard links that replace their target atomically."""

import errno
import os
import shutil
from pathlib import Path

from lance_pipeline.storage.whole_files import whole_file

# Different disks, a file system without hard links, or the limit of links per file.
_NO_LINKS = (errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EACCES)


def link_file(source: Path, target: Path) -> None:
    """Atomically make ``target`` a hard link to ``source``, or a copy where links are not possible.

    An existing ``target`` is replaced, not written to: other links to it keep their content.

    Raises:
        OSError: ``target`` cannot be written.
    """
    with whole_file(target) as path:
        work = Path(path)
        # May be left over from a killed process.
        work.unlink(missing_ok=True)
        try:
            os.link(source, work)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            shutil.copyfile(source, work)
    # Renaming a link over another link to the same file does nothing, and leaves it there.
    work.unlink(missing_ok=True)
