"""A process that examines files for an ingest, and the side of it that the ingest talks to.

Python runs one thread at a time; small images are mostly Python's work, so that only processes can share it. The
process is started by its own command instead of by :mod:`multiprocessing`, which would run a user's script again. It
writes nothing, so it may die at any time, and ends when the ingest does, as its connection is then closed.
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

import pyarrow as pa

from lance_pipeline.errors import InputError
from lance_pipeline.ingest.examination import Job, Outcome, examine


class ProcessEndedError(Exception):
    """A process ended without an answer; the message says with which status.

    Args:
        status: of the process, negative where a signal ended it.
    """

    def __init__(self, status: int) -> None:
        super().__init__(_status(status))
        self.killed = status < 0


class WorkerProcess:
    """Examines files of one job in a process of its own; use it from one thread at a time.

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
        """Whether it has started, or ended while starting."""
        return self._connection.poll()

    def welcome(self) -> Self:
        """Wait until it has started.

        Raises:
            ProcessEndedError: it has ended instead.
        """
        self._receive()
        return self

    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def examine(self, files: pa.RecordBatch, verdict: str | None = None) -> Outcome:
        """As :func:`examination.examine`.

        Raises:
            InputError: the storage failed.
            ProcessEndedError: the process ended.
            RuntimeError: an error that is nobody's but the code's.
        """
        self._send((files, verdict))
        received = self._receive()
        if isinstance(received, Exception):
            raise received
        return cast("Outcome", received)

    def close(self) -> None:
        """End it, whatever it is doing."""
        self._connection.close()
        self._process.kill()
        self._process.wait()

    def _send(self, message: object) -> None:
        # If it is gone, receiving says why.
        with suppress(OSError):
            self._connection.send(message)

    def _receive(self) -> object:
        try:
            return self._connection.recv()
        except (EOFError, OSError) as error:
            self._connection.close()
            raise ProcessEndedError(self._process.wait()) from error


def main(descriptor: int) -> None:
    """Examine what the ingest sends until it is gone."""
    # Ctrl-C in a terminal reaches all processes: the ingest decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
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
    except InputError as error:
        return error
    except MemoryError:
        # Only a new process surely has what this one could not get.
        raise
    except Exception:  # noqa: BLE001 -- raised again where the ingest can show it
        return RuntimeError(f"a process that examines files failed:\n{traceback.format_exc()}")


def _status(number: int) -> str:
    """How a process ended, for people."""
    if number >= 0:
        return f"status {number}"
    with suppress(ValueError):
        return f"status {number} ({signal.Signals(-number).name})"
    return f"status {number}"


if __name__ == "__main__":
    main(int(sys.argv[1]))
