"""Many files examined at a time, by threads or by processes, and handed out in a fixed order."""

import os
import sys
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Empty, SimpleQueue
from threading import Lock
from types import TracebackType
from typing import Self

import pyarrow as pa

from lance_pipeline.images.columns import Indices
from lance_pipeline.images.ingestion.backlog import Backlog
from lance_pipeline.images.ingestion.examination import FILES, Job, Outcome, examine
from lance_pipeline.images.ingestion.worker import WorkerProcess
from lance_pipeline.images.object_store import is_remote

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
) -> Iterator[tuple[Indices, Outcome]]:
    """Examine the files of the backlog in its order, many at a time, with few of them in memory.

    Args:
        job: what is the same for all files.
        backlog: the files.
        stored_digests: gives for some positions the digests of bytes and pixels of the rows they may still equal.
        threads: how many at a time; by default one a core, and more where storage is remote.

    Yields:
        The positions of some files, and what became of them.

    Raises:
        InputError: the storage failed.
    """
    remote = is_remote(job.reader.base)
    threads = threads or (_REMOTE_THREADS if remote else os.cpu_count() or 1)
    limit = _REMOTE_TASK_FILES if remote else _TASK_FILES
    most = min(max(backlog.files // (_TASKS_A_THREAD * threads), 1), limit)

    def task(files: pa.RecordBatch, positions: Indices) -> Outcome:
        columns = [*files.select(FILES[:4]).columns, *stored_digests(positions)]
        return crew.examine(pa.record_batch(columns, names=FILES))

    helpers = threads - 1 if _mostly_python(job, backlog) else 0
    with _Crew(job, helpers) as crew, ThreadPoolExecutor(threads, thread_name_prefix="examine") as pool:
        ahead: deque[tuple[Indices, Future[Outcome]]] = deque()
        try:
            for files in backlog.stretches(most, _TASK_BYTES):
                positions = files["position"].to_numpy()
                ahead.append((positions, pool.submit(task, files, positions)))
                if len(ahead) > 2 * threads:
                    done, future = ahead.popleft()
                    yield done, future.result()
            while ahead:
                done, future = ahead.popleft()
                yield done, future.result()
        finally:
            for _, future in ahead:
                future.cancel()


class _Crew:
    """Processes that examine files; where all of them are busy, or not up yet, the asking thread does it itself."""

    def __init__(self, job: Job, processes: int) -> None:
        self._job = job
        self._starting = [WorkerProcess(job) for _ in range(processes)]
        self._all = list(self._starting)
        self._idle: SimpleQueue[WorkerProcess] = SimpleQueue()
        self._lock = Lock()

    def examine(self, files: pa.RecordBatch) -> Outcome:
        """As :func:`examination.examine`."""
        self._welcome()
        try:
            worker = self._idle.get_nowait()
        except Empty:
            return examine(self._job, files)
        outcome = worker.examine(files)
        self._idle.put(worker)
        return outcome

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._all:
            worker.close()

    def _welcome(self) -> None:
        with self._lock:
            for worker in [worker for worker in self._starting if worker.ready()]:
                self._starting.remove(worker)
                self._idle.put(worker.welcome())


def _mostly_python(job: Job, backlog: Backlog) -> bool:
    """Whether processes pay."""
    if backlog.files < _PROCESS_FILES or is_remote(job.reader.base) or not sys.executable:
        return False
    return backlog.nbytes / backlog.files <= _PROCESS_MEAN_BYTES
