"""Settings that make ingest, loaders and training faster, and that affect their whole process."""

import os
import sys

from lance_pipeline.freed_memory import manage_freed_memory

# OpenCV reads it when it is imported.
_OPENCV_THREADS = "OPENCV_FOR_THREADS_NUM"


def speed_up_process() -> None:
    """Set the number of OpenCV's threads, and how freed memory is kept, for this process and its children.

    Call it at the start of a process that only runs this package, such as a step, or in a notebook if you like. The
    library never does, and is up to a tenth slower without. What you have set in ``OPENCV_FOR_THREADS_NUM`` and
    ``MALLOC_ARENA_MAX`` stays. Idempotent.
    """
    # Ingest and loaders run their own threads; OpenCV's would compete with them.
    threads = os.environ.setdefault(_OPENCV_THREADS, "1")
    if "cv2" in sys.modules and threads.isdecimal():
        sys.modules["cv2"].setNumThreads(int(threads))
    manage_freed_memory()
