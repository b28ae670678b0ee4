"""Processes that examine files for an ingest: each that ends is replaced, and its files are examined again.

A file may end the process that decodes it, by a fault of a decoder or for want of memory. Files with which a process
ended are therefore never examined in the ingest's own process, and are divided until the one that ends it is found.
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

# After so many processes in a row that did not start no more are tried; being killed from outside is only a part of it.
_MOST_FAILURES, _KILLED = 3, 0.1
# A stretch, or a single file, with which so many processes ended did not meet an accident from outside.
_ENDS = 2


class WorkerPool:
    """Processes that examine files; where all of them are busy, or not up yet, the asking thread does it itself.

    Args:
        job: what is the same for all files.
        processes: how many to start at once.
        warn: called, from any thread, with a line about a process that ended.
        guarded: whether nothing is examined in this process, unless no other can be started.
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
        """As :func:`examination.examine`, in one part or several, in the order of the files.

        Raises:
            InputError: the storage failed, or no process can be started for files that end theirs.
        """
        worker = self._free() or (self._started() if self._guarded else None)
        try:
            if worker is None:
                return [examine(self._job, files)]
            return [self._examine_in(worker, files)]
        except MemoryError:
            self._warn(f"Memory ran out examining {_named(files)}; another process examines them again.")
        except ProcessEndedError as end:
            self._warn(f"A process that examined {_named(files)} ended with {end}; another examines them again.")
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

    def _examine_suspects(self, files: pa.RecordBatch, ends: int) -> Iterator[Outcome]:
        """Examine files with which so many processes have ended, after the second one in halves."""
        worker = self._free() or self._started()
        if worker is None:
            raise InputError(
                f"a process that examined {_named(files)} ended, and no other can be started to examine them again. "
                "Free memory, or raise the limit of processes, and run again; what has been read so far is kept."
            )
        try:
            yield self._examine_in(worker, files)
            return
        except ProcessEndedError as error:
            self._warn(f"Another process that examined {_named(files)} ended with {error}.")
            status = str(error)
        if ends + 1 < _ENDS:
            yield from self._examine_suspects(files, ends + 1)
        elif len(files) > 1:
            for places in np.array_split(np.arange(len(files)), 2):
                # Copied, as a slice would be sent to another process with all that it is a slice of. A single file
                # gets a second chance.
                yield from self._examine_suspects(files.take(pa.array(places)), int(len(places) > 1))
        else:
            yield self._reject(files, status)

    def _reject(self, file: pa.RecordBatch, status: str) -> Outcome:
        """Reject the file that ends its processes, and remember it if it can be read."""
        verdict = f"the process that decoded it ended with {status} each time; touch the file to have it tried again"
        self._warn(f"{_named(file)} is rejected: {verdict}.")
        if worker := self._free() or self._started():
            try:
                return self._examine_in(worker, file, verdict)
            except ProcessEndedError as error:
                self._warn(f"A process that only read {_named(file)} ended with {error}; the next ingest tries again.")
        return reject_unread(self._job, file, verdict)

    def _free(self) -> WorkerProcess | None:
        """A process that has started and waits; those that ended while they waited are replaced."""
        self._welcome()
        while True:
            try:
                worker = self._idle.get_nowait()
            except Empty:
                return None
            if worker.alive():
                return worker
            self._warn("A process that waited for files to examine has ended; another is started.")
            self._start_ahead()

    def _welcome(self) -> None:
        with self._lock:
            ready = [worker for worker in self._starting if worker.ready()]
            for worker in ready:
                self._starting.remove(worker)
        for worker in ready:
            if self._came_up(worker):
                self._idle.put(worker)
            else:
                self._start_ahead()

    def _start_ahead(self) -> None:
        if worker := self._start():
            with self._lock:
                self._starting.append(worker)

    def _started(self) -> WorkerProcess | None:
        """A new process, once it has started; None if none does."""
        while worker := self._start():
            if self._came_up(worker):
                return worker
        return None

    def _start(self) -> WorkerProcess | None:
        if self._failures >= _MOST_FAILURES:
            return None
        try:
            worker = WorkerProcess(self._job)
        except OSError as error:
            self._failed(f"cannot be started: {error}", 1)
            return None
        self._all.append(worker)
        return worker

    def _came_up(self, worker: WorkerProcess) -> bool:
        try:
            worker.welcome()
        except ProcessEndedError as end:
            self._failed(f"ended with {end} while it started", _KILLED if end.killed else 1)
            return False
        self._failures = 0.0
        return True

    def _failed(self, how: str, weight: float) -> None:
        self._failures += weight
        rest = "" if self._failures < _MOST_FAILURES else "; the ingest continues with the processes that it has"
        self._warn(f"A process for examining files {how}{rest}.")


def _named(files: pa.RecordBatch) -> str:
    first, last = files["path"][0], files["path"][-1]
    return f"{first}" if len(files) == 1 else f"{len(files)} files from {first} to {last}"
