"""One training at a time per device of a host, and per checkpoint folder."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from lance_pipeline.storage.locking import first_free, read_note, unwritable
from lance_pipeline.storage.private import user_folder


class Holder(BaseModel):
    """The process that holds a device or a checkpoint folder."""

    model_config = ConfigDict(frozen=True)

    what: str = Field(description="What is trained, such as `digits/resnet34`.")
    run_id: str = Field(default="", description="The Dagster run; empty where there is none.")
    process: int = Field(default_factory=os.getpid, description="The process's id on this host.")
    since: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC), description="When it acquired the lock.")

    def __str__(self) -> str:
        since = self.since.astimezone()
        today = since.date() == datetime.now(UTC).astimezone().date()
        run = f"run {self.run_id[:8]}, " if self.run_id else ""
        return f"{run}process {self.process}, since {since:{'%H:%M:%S' if today else '%Y-%m-%d %H:%M:%S'}}"


def acquire_device(
    devices: Mapping[str, str],
    what: str,
    run_id: str = "",
    *,
    on_wait: Callable[[str], None],
    stop: Callable[[], str | None] = lambda: None,
) -> AbstractContextManager[str]:
    """Acquire the first free device exclusively and yield its name; sleep while all are taken.

    The lock files are in the user's own folder, see `user_folder`. All runs of one user on one host see each other's
    trainings, regardless of TMPDIR and LANCE_PIPELINE_DATA, as long as they agree on XDG_RUNTIME_DIR or have none.
    Runs of different users or containers do not.

    Args:
        devices: the devices, the preferred one first: the name to use for each, and its name on this host.
        what: the asset being trained, such as ``digits/resnet34``; shown to waiting processes.
        run_id: the Dagster run, shown as well.
        on_wait: called with a message that names the holders, and again when they change.
        stop: polled while waiting; a reason, such as ``SIGTERM``, ends the wait.

    Raises:
        Stopped: `stop` gave a reason.
        InputError: there is no folder for the lock files, or a file in it cannot be used.
    """
    folder = user_folder()
    locks = {device: folder / f"{name}.lock" for device, name in devices.items()}
    return acquire_first(locks, "XDG_RUNTIME_DIR", what, run_id, on_wait=on_wait, stop=stop)


@contextmanager
def acquire_first(
    locks: Mapping[str, Path],
    variable: str,
    what: str,
    run_id: str = "",
    *,
    on_wait: Callable[[str], None],
    stop: Callable[[], str | None] = lambda: None,
) -> Iterator[str]:
    """Acquire the first free resource exclusively and yield its name; sleep while all are taken.

    Each resource has a lock file that names its `Holder` for waiting processes. The lock is released when the context
    or the process ends, however it ends.

    Args:
        locks: the lock files by resource name, the preferred one first.
        variable: the environment variable that moves the files elsewhere, for error messages.
        what: the asset being trained, such as ``digits/resnet34``; shown to waiting processes.
        run_id: the Dagster run, shown as well.
        on_wait: called with a message that names the holders, and again when they change.
        stop: polled while waiting; a reason, such as ``SIGTERM``, ends the wait.

    Raises:
        Stopped: `stop` gave a reason.
        InputError: a lock file cannot be used.
    """
    names = {str(lock): name for name, lock in locks.items()}
    with first_free(list(names), variable, lambda: _waiting(locks), on_wait, stop) as lock:
        try:
            lock.note(Holder(what=what, run_id=run_id).model_dump_json())
        except OSError as error:
            raise unwritable(lock.path, error, variable) from error
        yield names[lock.path]


def _waiting(locks: Mapping[str, Path]) -> str:
    """A message that names the resources and their holders."""
    held: list[str] = []
    for name, lock in locks.items():
        holder = _holder(lock)
        held.append(f"{name}, held by {f'{holder.what} ({holder})' if holder else 'another process'}")
    return f"waiting for {' or '.join(held)}"


def _holder(lock: Path) -> Holder | None:
    """The holder named in a lock file; None before it is written, or if another version wrote something else."""
    try:
        return Holder.model_validate_json(read_note(str(lock)))
    except (OSError, ValidationError):
        return None
