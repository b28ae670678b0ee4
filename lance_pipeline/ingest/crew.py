"""Many files examined at a time, by threads or by processes, and handed out in a fixed order."""

import os
import sys
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor

import pyarrow as pa

from lance_pipeline.ingest.backlog import Backlog
from lance_pipeline.ingest.examination import FILES, Job, Outcome
from lance_pipeline.ingest.worker_pool import WorkerPool
from lance_pipeline.storage.columns import Indices
from lance_pipeline.storage.object_store import is_remote

# What one thread takes at once: enough to keep the overhead small, few enough to hold.
_TASK_FILES, _REMOTE_TASK_FILES = 256, 64
_TASK_BYTES = 4 << 20
# Enough tasks for each thread to have some even where there are few files.
_TASKS_A_THREAD = 4
# Requests to an object store mostly wait.
_REMOTE_THREADS = 16
# A process costs some tenths of a second to start, and copies each image twice: worth it for many small files only, as
# decoding lets go of Python's lock and larger images are mostly decoding.
_PROCESS_FILES = 8192
_PROCESS_MEAN_BYTES = 32 << 10


def outcomes(
    job: Job,
    backlog: Backlog,
    stored_digests: Callable[[Indices], tuple[pa.Array, pa.Array]],
    threads: int | None = None,
    *,
    warn: Callable[[str], None],
    guarded: bool = False,
) -> Generator[tuple[Indices, Outcome]]:
    """Examine the files of the backlog in its order, many at a time, with few of them in memory.

    Args:
        job: what is the same for all files.
        backlog: the files.
        stored_digests: gives for some positions the digests of bytes and pixels of the rows they may still equal.
        threads: how many at a time; by default one a core, and more where storage is remote.
        warn: called, from any thread, with a line about a process that ended.
        guarded: whether all files are examined by other processes, as one of them may end its process.

    Yields:
        The positions of some files, and what became of them.

    Raises:
        InputError: the storage failed, or no process can be started for files that end theirs.
    """
    remote = is_remote(job.reader.base)
    threads = threads or (_REMOTE_THREADS if remote and not guarded else os.cpu_count() or 1)
    limit = _REMOTE_TASK_FILES if remote else _TASK_FILES
    most = min(max(backlog.files // (_TASKS_A_THREAD * threads), 1), limit)

    def task(files: pa.RecordBatch, positions: Indices) -> list[tuple[Indices, Outcome]]:
        columns = [*files.select(FILES[:4]).columns, *stored_digests(positions)]
        found, start = [], 0
        for outcome in workers.examine(pa.record_batch(columns, names=FILES)):
            found.append((positions[start : start + len(outcome.codes)], outcome))
            start += len(outcome.codes)
        return found

    helpers = threads - 1 if not guarded and _mostly_python(job, backlog) else 0
    with (
        WorkerPool(job, helpers, warn=warn, guarded=guarded) as workers,
        ThreadPoolExecutor(threads, thread_name_prefix="examine") as pool,
    ):
        ahead: deque[Future[list[tuple[Indices, Outcome]]]] = deque()
        try:
            for files in backlog.stretches(most, _TASK_BYTES):
                ahead.append(pool.submit(task, files, files["position"].to_numpy()))
                if len(ahead) > 2 * threads:
                    yield from ahead.popleft().result()
            while ahead:
                yield from ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()


def _mostly_python(job: Job, backlog: Backlog) -> bool:
    """Whether processes pay."""
    if backlog.files < _PROCESS_FILES or is_remote(job.reader.base) or not sys.executable:
        return False
    return backlog.nbytes / backlog.files <= _PROCESS_MEAN_BYTES
