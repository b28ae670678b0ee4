"""One training at a time on each device of a host, and in each folder of checkpoints."""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from lance_pipeline.images.locking import first_free, unwritable


class Holder(BaseModel):
    """Who has a device, or a folder of checkpoints."""

    model_config = ConfigDict(frozen=True)

    what: str = Field(description="What is trained, such as `digits/resnet34`.")
    run_id: str = Field(default="", description="The Dagster run; empty where there is none.")
    process: int = Field(default_factory=os.getpid, description="The process's id on this host.")
    since: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC), description="When it got it.")

    def __str__(self) -> str:
        since = self.since.astimezone()
        today = since.date() == datetime.now(UTC).astimezone().date()
        run = f"run {self.run_id[:8]}, " if self.run_id else ""
        return f"{run}process {self.process}, since {since:{'%H:%M:%S' if today else '%Y-%m-%d %H:%M:%S'}}"


def occupied(
    devices: Mapping[str, str],
    what: str,
    run_id: str = "",
    *,
    on_wait: Callable[[str], None],
    stop: Callable[[], str | None] = lambda: None,
) -> AbstractContextManager[str]:
    """Have the first free one of these devices to oneself, and yield it; sleep while all are taken.

    The files of `held` are in the host's temporary folder. They are this user's alone, and have the user's number in
    their names: that folder is sticky, and in it Linux refuses to open another user's file for writing. So two users
    of a host, and two values of TMPDIR, do not see each other's trainings.

    Args:
        devices: the devices, the preferred one first: what to call each of them, and its name on this host.
        what: what is trained, such as ``digits/resnet34``; shown to those who wait.
        run_id: the Dagster run, shown as well.
        on_wait: called with whom the devices are waited for, and again when others have them.
        stop: asked while it waits; a reason, such as ``SIGTERM``, ends the waiting.

    Raises:
        Stopped: `stop` gave a reason.
        InputError: the temporary folder cannot be written.
    """
    folder = Path(tempfile.gettempdir())
    locks = {device: folder / f"lance_pipeline-{os.getuid()}-{name}.lock" for device, name in devices.items()}
    return held(locks, "TMPDIR", what, run_id, on_wait=on_wait, stop=stop)


@contextmanager
def held(
    locks: Mapping[str, Path],
    variable: str,
    what: str,
    run_id: str = "",
    *,
    on_wait: Callable[[str], None],
    stop: Callable[[], str | None] = lambda: None,
) -> Iterator[str]:
    """Have the first free one of these things to oneself, and yield its name; sleep while all are taken.

    Each has a lock file, with a small JSON file beside it that tells the others who holds it (a `Holder`). It is free
    again when the context or the process ends, however it ends.

    Args:
        locks: their lock files by what they are called, the preferred one first.
        variable: the environment variable that moves the files elsewhere, for the message.
        what: what is trained, such as ``digits/resnet34``; shown to those who wait.
        run_id: the Dagster run, shown as well.
        on_wait: called with whom they are waited for, and again when others have them.
        stop: asked while it waits; a reason, such as ``SIGTERM``, ends the waiting.

    Raises:
        Stopped: `stop` gave a reason.
        InputError: a file cannot be written.
    """
    names = {str(lock): name for name, lock in locks.items()}
    with first_free(list(names), variable, lambda: _waiting(locks), on_wait, stop) as path:
        note = _note(Path(path))
        try:
            _write(note, Holder(what=what, run_id=run_id), variable)
            yield names[path]
        finally:
            note.unlink(missing_ok=True)


def _waiting(locks: Mapping[str, Path]) -> str:
    """What is waited for, and who has it."""
    having = []
    for name, lock in locks.items():
        holder, it = _read(_note(lock)), name if len(locks) > 1 else "it"
        having.append(f"{holder.what} has {it} ({holder})" if holder else f"another process has {it}")
    return f"waiting for {' or '.join(locks)}: {', '.join(having)}"


def _note(lock: Path) -> Path:
    return lock.with_suffix(".json")


def _write(note: Path, holder: Holder, variable: str) -> None:
    work = note.with_suffix(".tmp")
    try:
        work.write_text(holder.model_dump_json() + "\n")
        os.replace(work, note)
    except OSError as error:
        raise unwritable(str(work), error, variable) from error


def _read(note: Path) -> Holder | None:
    """None for the moment between lock and note, and where another version left a note of its own kind."""
    try:
        return Holder.model_validate_json(note.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
