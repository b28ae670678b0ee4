"""The clean-up of runs whose process was killed."""

import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import dagster as dg

from lance_pipeline.orchestration.paths import DATA_VARIABLE
from lance_pipeline.storage.locking import Lock, locked_file, try_lock
from lance_pipeline.storage.redaction import redact

# Dagster's pages hide tags with this prefix.
PROCESS_TAG = ".dagster/lance_pipeline.process"
# A run touches its file so often, and counts as gone on another host after so long a silence.
_BEAT_SECONDS = 60
SILENT_SECONDS = 900
# Kept until this process ends, because a run ends a moment after its executor.
_held: list[Lock] = []


def process_tag() -> dict[str, str]:
    """The tag of a run that names its host and process."""
    return {PROCESS_TAG: f"{socket.gethostname()}:{os.getpid()}"}


def end_dead_runs(instance: dg.DagsterInstance, run_id: str, warn: Callable[[str], None]) -> None:
    """Lock this run's file for as long as this process lives, and end all runs whose process is gone.

    Each run has a file in the instance. The operating system frees its lock whenever its process ends; a process id is
    no substitute, as it may have been reused or mean nothing in this container. Locks may not be seen across hosts, so
    that a run of another host counts as gone only if its file has not been touched for a while.

    Args:
        instance: the instance of all the runs.
        run_id: this run.
        warn: called with a line for the log if something cannot be done; it never fails the run.
    """
    folder = Path(instance.root_directory, "running")
    own = folder / f"{run_id}.run"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # One process at a time, otherwise another could find this run's file before it is locked.
        with locked_file(folder / "sweep.lock", DATA_VARIABLE):
            if lock := try_lock(own, DATA_VARIABLE):
                _held.append(lock)
            os.utime(own)
            now = own.stat().st_mtime
            for path in folder.glob("*.run"):
                if path != own:
                    _end_if_dead(instance, path, now, warn)
    except Exception as error:  # noqa: BLE001 - whatever it is, this run is not to blame
        warn(f"Cannot look for runs whose process is gone; the next run tries again: {redact(error)}")
    threading.Thread(target=_beat, args=(own,), name="run-beat", daemon=True).start()


def _beat(own: Path) -> None:
    """Touch this run's file until the process ends or the file is removed."""
    while True:
        time.sleep(_BEAT_SECONDS)
        try:
            os.utime(own)
        except FileNotFoundError:
            return
        except OSError:
            # Its disk is away.
            continue


def _end_if_dead(instance: dg.DagsterInstance, path: Path, now: float, warn: Callable[[str], None]) -> None:
    """End the run of a file if its process is gone.

    Args:
        instance: the instance of the run.
        path: the run's file.
        now: the time on the file's disk, which may be on another host.
        warn: called with a line for the log if the run cannot be ended.
    """
    try:
        run = instance.get_run_by_id(path.stem)
        silent = now - path.stat().st_mtime > SILENT_SECONDS
        if not silent and (run is None or not _is_of_this_host(run)):
            return
        # A live run of this host holds its lock.
        if lock := try_lock(path, DATA_VARIABLE):
            try:
                _end(instance, path.stem, run)
                path.unlink()
            finally:
                lock.release()
    except Exception as error:  # noqa: BLE001 - the other runs can still be ended
        warn(f"Cannot tell whether the process of run {path.stem} is gone; the next run tries again: {redact(error)}")


def _is_of_this_host(run: dg.DagsterRun) -> bool:
    return run.tags.get(PROCESS_TAG, "").rpartition(":")[0] == socket.gethostname()


def _end(instance: dg.DagsterInstance, run_id: str, run: dg.DagsterRun | None) -> None:
    if run is not None and not run.is_finished:
        process = f"The process of this run ({run.tags.get(PROCESS_TAG, 'unknown')}) is gone"
        if run.status == dg.DagsterRunStatus.CANCELING:
            instance.report_run_canceled(run, f"{process}, as it was asked to be.")
        else:
            instance.report_run_failed(
                run,
                f"{process}: it was killed, or the machine went down. Materialize the same assets again: what was "
                "begun resumes where it was.",
            )
    # Also for runs ended from outside: only the run's own process frees its slots.
    instance.event_log_storage.free_concurrency_slots_for_run(run_id)
