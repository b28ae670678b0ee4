"""Processes that examine files for an ingest; one that ends is replaced, and its files are examined again.

A file may crash the process that decodes it, through a bug in a decoder or a lack of memory. Files whose process ended
are therefore never examined in the ingest's own process, and are bisected until the culprit is found.
"""

from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from threading import Lock
from types import TracebackType
from typing import Self

import numpy as np
import pyarrow as pa

from lance_pipeline.errors import InputError
from lance_pipeline.ingest.examination import Job, Outcome, examine, reject_unread
from lance_pipeline.ingest.worker import ProcessEndedError, WorkerProcess

# No more processes are started after this many consecutive failures; one that was killed from outside counts less.
_MAX_FAILURES, _KILLED_WEIGHT = 3, 0.1
# If this many processes end while examining a batch or a file, the cause is the batch or file, not chance.
_MAX_CRASHES = 2


class WorkerPool:
    """Processes that examine files; if all are busy or still starting, the calling thread examines the files itself.

    Args:
        job: the settings of the ingest.
        processes: the number of processes to start immediately.
        warn: called, from any thread, with a message about a process that ended.
        guarded: whether to examine nothing in this process, unless no other can be started.
    """

    def __init__(self, job: Job, processes: int, *, warn: Callable[[str], None], guarded: bool) -> None:
        self._job, self._warn, self._guarded = job, warn, guarded
        self._all: list[WorkerProcess] = []
        self._starting: list[WorkerProcess] = []
        self._idle: SimpleQueue[WorkerProcess] = SimpleQueue()
        self._lock = Lock()
        self._failures = 0.0
        for _ in range(processes):
            self._start_ahead()

    def examine(self, files: pa.RecordBatch) -> list[Outcome]:
        """Like :func:`examination.examine`, but the outcome may be in several parts, in the order of the files.

        Raises:
            InputError: the storage failed, or no process can be started for files that crash theirs.
        """
        worker = self._idle_worker() or (self._new_worker() if self._guarded else None)
        try:
            if worker is None:
                return [examine(self._job, files)]
            return [self._examine_in(worker, files)]
        except MemoryError:
            self._warn(f"Out of memory while examining {_describe(files)}; retrying in another process.")
        except ProcessEndedError as end:
            self._warn(f"A process examining {_describe(files)} ended with {end}; retrying in another process.")
        return list(self._examine_suspects(files, 1))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._all:
            worker.close()

    def _examine_in(self, worker: WorkerProcess, files: pa.RecordBatch, verdict: str | None = None) -> Outcome:
        try:
            return worker.examine(files, verdict)
        finally:
            if worker.alive():
                self._idle.put(worker)

    def _examine_suspects(self, files: pa.RecordBatch, crashes: int) -> Iterator[Outcome]:
        """Examine files whose process has ended ``crashes`` times; after the second time, examine them in halves."""
        worker = self._idle_worker() or self._new_worker()
        if worker is None:
            raise InputError(
                f"a process examining {_describe(files)} ended, and no other process can be started to retry. Free "
                "memory, or raise the limit on processes, and run again; the files read so far are remembered."
            )
        try:
            yield self._examine_in(worker, files)
            return
        except ProcessEndedError as error:
            self._warn(f"Another process examining {_describe(files)} ended with {error}.")
            status = str(error)
        if crashes + 1 < _MAX_CRASHES:
            yield from self._examine_suspects(files, crashes + 1)
        elif len(files) > 1:
            for places in np.array_split(np.arange(len(files)), 2):
                # Copied: pickling a slice sends the whole batch to the other process. A single file gets a second
                # chance.
                yield from self._examine_suspects(files.take(pa.array(places)), int(len(places) > 1))
        else:
            yield self._reject(files, status)

    def _reject(self, file: pa.RecordBatch, status: str) -> Outcome:
        """Reject the file that crashes its processes, and remember it if it can be read."""
        verdict = f"every process that decoded it ended with {status}; touch the file to try it again"
        self._warn(f"{_describe(file)} is rejected: {verdict}.")
        if worker := self._idle_worker() or self._new_worker():
            try:
                return self._examine_in(worker, file, verdict)
            except ProcessEndedError as error:
                self._warn(
                    f"A process that only read {_describe(file)} ended with {error}; the next ingest tries again."
                )
        return reject_unread(self._job, file, verdict)

    def _idle_worker(self) -> WorkerProcess | None:
        """An idle process, or None; processes that ended while idle are replaced."""
        self._collect_started()
        while True:
            try:
                worker = self._idle.get_nowait()
            except Empty:
                return None
            if worker.alive():
                return worker
            self._warn("An idle process for examining files has ended; starting another.")
            self._start_ahead()

    def _collect_started(self) -> None:
        """Make the processes that have started available; replace those that ended while starting."""
        with self._lock:
            ready = [worker for worker in self._starting if worker.ready()]
            for worker in ready:
                self._starting.remove(worker)
        for worker in ready:
            if self._has_started(worker):
                self._idle.put(worker)
            else:
                self._start_ahead()

    def _start_ahead(self) -> None:
        if worker := self._start():
            with self._lock:
                self._starting.append(worker)

    def _new_worker(self) -> WorkerProcess | None:
        """Start a process and wait for it; None if no process starts."""
        while worker := self._start():
            if self._has_started(worker):
                return worker
        return None

    def _start(self) -> WorkerProcess | None:
        if self._failures >= _MAX_FAILURES:
            return None
        try:
            worker = WorkerProcess(self._job)
        except OSError as error:
            self._count_failure(f"cannot be started: {error}", 1)
            return None
        self._all.append(worker)
        return worker

    def _has_started(self, worker: WorkerProcess) -> bool:
        """Wait until the process has started or ended."""
        try:
            worker.wait_until_ready()
        except ProcessEndedError as end:
            self._count_failure(f"ended with {end} while starting", _KILLED_WEIGHT if end.killed else 1)
            return False
        self._failures = 0.0
        return True

    def _count_failure(self, how: str, weight: float) -> None:
        self._failures += weight
        rest = "" if self._failures < _MAX_FAILURES else "; the ingest continues with the processes that it has"
        self._warn(f"A process for examining files {how}{rest}.")


def _describe(files: pa.RecordBatch) -> str:
    first, last = files["path"][0], files["path"][-1]
    return f"{first}" if len(files) == 1 else f"{len(files)} files from {first} to {last}"
