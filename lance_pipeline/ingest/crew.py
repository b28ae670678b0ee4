"""Examines many files in parallel, in threads or processes, and yields the outcomes in a fixed order."""

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

# Files and bytes per task: enough to keep the overhead small, few enough to fit into memory.
_TASK_FILES, _REMOTE_TASK_FILES = 256, 64
_TASK_BYTES = 4 << 20
# Gives every thread something to do even if there are few files.
_TASKS_PER_THREAD = 4
# Requests to an object store mostly wait.
_REMOTE_THREADS = 16
# A process takes some tenths of a second to start and copies each image twice. That pays for many small files only:
# decoding releases the GIL, and larger images are mostly decoding.
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
    """Examine the files of the backlog in order, many in parallel, with few of them in memory.

    Args:
        job: what is the same for all files.
        backlog: the files.
        stored_digests: returns, for some positions, the byte and pixel digests of the stored rows that may match.
        threads: the number of threads; by default one per core, and more if the storage is remote.
        warn: called, from any thread, with a message about a process that ended.
        guarded: whether to examine all files in other processes, because a file may crash its process.

    Yields:
        The positions of some files, and their outcome.

    Raises:
        InputError: the storage failed, or no process can be started for files that crash theirs.
    """
    remote = is_remote(job.reader.base)
    threads = threads or (_REMOTE_THREADS if remote and not guarded else os.cpu_count() or 1)
    limit = _REMOTE_TASK_FILES if remote else _TASK_FILES
    max_files = min(max(backlog.files // (_TASKS_PER_THREAD * threads), 1), limit)

    def task(files: pa.RecordBatch, positions: Indices) -> list[tuple[Indices, Outcome]]:
        columns = [*files.select(FILES[:4]).columns, *stored_digests(positions)]
        found, start = [], 0
        for outcome in workers.examine(pa.record_batch(columns, names=FILES)):
            found.append((positions[start : start + len(outcome.codes)], outcome))
            start += len(outcome.codes)
        return found

    processes = threads - 1 if not guarded and _worth_processes(job, backlog) else 0
    with (
        WorkerPool(job, processes, warn=warn, guarded=guarded) as workers,
        ThreadPoolExecutor(threads, thread_name_prefix="examine") as pool,
    ):
        ahead: deque[Future[list[tuple[Indices, Outcome]]]] = deque()
        try:
            for files in backlog.batches(max_files, _TASK_BYTES):
                ahead.append(pool.submit(task, files, files["position"].to_numpy()))
                if len(ahead) > 2 * threads:
                    yield from ahead.popleft().result()
            while ahead:
                yield from ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()


def _worth_processes(job: Job, backlog: Backlog) -> bool:
    if backlog.files < _PROCESS_FILES or is_remote(job.reader.base) or not sys.executable:
        return False
    return backlog.nbytes / backlog.files <= _PROCESS_MEAN_BYTES
