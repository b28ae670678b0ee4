"""One file under several names."""

import errno
import os
import shutil
from pathlib import Path

from lance_pipeline.storage.whole_files import whole_file

# Another disk, a file system without hard links, or one that allows no more of them.
_NO_LINKS = (errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EACCES)


def link_file(source: Path, target: Path) -> None:
    """Make ``target`` a hard link to ``source``, whole or not at all; a copy where there can be no link.

    What ``target`` was before is replaced, not written to: other links to that file keep its content.

    Raises:
        OSError: ``target`` cannot be written.
    """
    with whole_file(target) as path:
        work = Path(path)
        # Left by a process that was killed.
        work.unlink(missing_ok=True)
        try:
            os.link(source, work)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            shutil.copyfile(source, work)
    # Renaming a link over another link to the same file does nothing.
    work.unlink(missing_ok=True)
