"""A process that examines files for an ingest, and the ingest's handle for it.

Examining small images is mostly Python code, which holds the GIL, so only processes can do it in parallel. The process
is started with its own command instead of :mod:`multiprocessing`, which would run a user's script again. It writes
nothing, so it may die at any time, and it ends with the ingest, which closes the connection.
"""

import os
import signal
import socket
import subprocess
import sys
import traceback
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Self, cast

import cv2
import pyarrow as pa

from lance_pipeline.errors import ExplainedError
from lance_pipeline.ingest.examination import Job, Outcome, examine


class ProcessEndedError(Exception):
    """A process ended without an answer; the message is its exit status.

    Args:
        status: the exit status, negative if a signal ended the process.
    """

    def __init__(self, status: int) -> None:
        super().__init__(_describe_status(status))
        self.killed = status < 0


class WorkerProcess:
    """Examines files of one job in a separate process; use it from one thread at a time.

    Raises:
        OSError: no process can be started.
    """

    def __init__(self, job: Job) -> None:
        ours, theirs = socket.socketpair()
        self._connection = Connection(ours.detach())
        command = [sys.executable, "-P", "-m", __name__, str(theirs.fileno())]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        try:
            with theirs:
                self._process = subprocess.Popen(command, env=environment, pass_fds=[theirs.fileno()])  # noqa: S603
        except OSError:
            self._connection.close()
            raise
        self._send(job)

    def ready(self) -> bool:
        """Whether the process has started, or has ended while starting."""
        return self._connection.poll()

    def wait_until_ready(self) -> Self:
        """Wait until the process has started.

        Raises:
            ProcessEndedError: it ended instead.
        """
        self._receive()
        return self

    def alive(self) -> bool:
        """Whether the process is still running."""
        return self._process.poll() is None

    def examine(self, files: pa.RecordBatch, verdict: str | None = None) -> Outcome:
        """Run :func:`examination.examine` in the process.

        Raises:
            InputError: the storage failed.
            ServiceError: the storage is away.
            ProcessEndedError: the process ended.
            RuntimeError: a bug in the examination; the message has its traceback.
        """
        self._send((files, verdict))
        received = self._receive()
        if isinstance(received, Exception):
            raise received
        return cast("Outcome", received)

    def close(self) -> None:
        """Kill the process, whatever it is doing."""
        self._connection.close()
        self._process.kill()
        self._process.wait()

    def _send(self, message: object) -> None:
        # If the process is gone, receiving reports why.
        with suppress(OSError):
            self._connection.send(message)

    def _receive(self) -> object:
        try:
            return self._connection.recv()
        except (EOFError, OSError) as error:
            self._connection.close()
            raise ProcessEndedError(self._process.wait()) from error


def main(descriptor: int) -> None:
    """Examine the files that the ingest sends, until it closes the connection."""
    # Ctrl-C in a terminal reaches all processes; the ingest decides what to do.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # There is a process for each core.
    cv2.setNumThreads(1)
    connection = Connection(descriptor)
    try:
        job: Job = connection.recv()
        connection.send(None)
        while True:
            files, verdict = connection.recv()
            connection.send(_answer(job, files, verdict))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def _answer(job: Job, files: pa.RecordBatch, verdict: str | None) -> Outcome | Exception:
    try:
        return examine(job, files, verdict)
    except ExplainedError as error:
        return error
    except MemoryError:
        # Only a new process is sure to start without the memory that this one has used up.
        raise
    except Exception:  # noqa: BLE001 -- raised again in the ingest, which can show it
        return RuntimeError(f"a process that examines files failed:\n{traceback.format_exc()}")


def _describe_status(number: int) -> str:
    if number >= 0:
        return f"status {number}"
    with suppress(ValueError):
        return f"status {number} ({signal.Signals(-number).name})"
    return f"status {number}"


if __name__ == "__main__":
    main(int(sys.argv[1]))
