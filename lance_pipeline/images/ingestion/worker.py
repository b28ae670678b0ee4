"""A process that examines files for an ingest, and the side of it that the ingest talks to.

Python runs one thread at a time; small images are mostly Python's work, so that only processes can share it. The
process is started by its own command instead of by :mod:`multiprocessing`, which would run a user's script again. It
writes nothing, hence may die at any time, and ends when the ingest does, as its connection is then closed.
"""

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Self

import pyarrow as pa

from lance_pipeline.errors import InputError
from lance_pipeline.images.ingestion.examination import Job, Outcome, examine


class WorkerProcess:
    """Examines files of one job in a process of its own; use it from one thread at a time.

    Raises:
        OSError: no process can be started.
    """

    def __init__(self, job: Job) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._connection = Connection(ours.detach())
            command = [sys.executable, "-P", "-m", __name__, str(theirs.fileno())]
            environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
            self._process = subprocess.Popen(command, env=environment, pass_fds=[theirs.fileno()])  # noqa: S603
        self._connection.send(job)

    def ready(self) -> bool:
        """Whether it has come up."""
        return self._connection.poll()

    def welcome(self) -> Self:
        """Note that it has come up.

        Raises:
            InputError: it has ended instead.
        """
        self._receive("starting")
        return self

    def examine(self, files: pa.RecordBatch) -> Outcome:
        """As :func:`examination.examine`.

        Raises:
            InputError: the storage failed, or the process ended.
        """
        # If it is gone, the receiving says why.
        with suppress(OSError):
            self._connection.send(files)
        return self._receive(f"reading files from {files['path'][0]} to {files['path'][-1]}")

    def close(self) -> None:
        """End it, whatever it is doing."""
        self._connection.close()
        self._process.kill()
        self._process.wait()

    def _receive(self, doing: str) -> Outcome:
        try:
            received = self._connection.recv()
        except (EOFError, OSError) as error:
            raise InputError(
                f"a process that examines files ended with status {self._process.wait()} while {doing}: what it said "
                "is above; status -9 mostly means that memory ran out. Run again; what has been read so far is kept."
            ) from error
        if isinstance(received, InputError):
            raise received
        return received


def main(descriptor: int) -> None:
    """Examine what the ingest sends until it is gone."""
    # Ctrl-C in a terminal reaches all processes: the ingest decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = Connection(descriptor)
    try:
        job: Job = connection.recv()
        connection.send(None)
        while True:
            files: pa.RecordBatch = connection.recv()
            try:
                outcome = examine(job, files)
            except InputError as error:
                outcome = error
            connection.send(outcome)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


if __name__ == "__main__":
    main(int(sys.argv[1]))
