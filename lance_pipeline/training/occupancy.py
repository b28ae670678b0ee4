"""One training at a time on each device of a host."""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from lance_pipeline.images.locking import first_free, unwritable

_VARIABLE = "TMPDIR"


class Holder(BaseModel):
    """Who has a device."""

    model_config = ConfigDict(frozen=True)

    what: str = Field(description="What is trained, such as `digits/resnet34`.")
    run_id: str = Field(default="", description="The Dagster run; empty where there is none.")
    process: int = Field(default_factory=os.getpid, description="The process's id on this host.")
    since: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC), description="When it took the device.")

    def __str__(self) -> str:
        since = self.since.astimezone()
        today = since.date() == datetime.now(UTC).astimezone().date()
        run = f"run {self.run_id[:8]}, " if self.run_id else ""
        return f"{run}process {self.process}, since {since:{'%H:%M:%S' if today else '%Y-%m-%d %H:%M:%S'}}"


@contextmanager
def occupied(
    devices: Mapping[str, str],
    what: str,
    run_id: str = "",
    *,
    on_wait: Callable[[str], None],
    stop: Callable[[], str | None] = lambda: None,
) -> Iterator[str]:
    """Have the first free one of these devices to oneself, and yield it; sleep while all are taken.

    Each device has a lock file in the host's temporary folder, with a small JSON file beside it that tells
    the others who holds it (a `Holder`). Both are this user's alone, and have the user's number in their
    names: that folder is sticky, and in it Linux refuses to open another user's file for writing. So two
    users of a host, and two values of TMPDIR, do not see each other's trainings.

    A device is free again when the context or the process ends, however it ends.

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
    by_path = {f"{_path(name)}.lock": device for device, name in devices.items()}
    with first_free(list(by_path), _VARIABLE, lambda: _waiting(devices), on_wait, stop) as path:
        device = by_path[path]
        note = _note(devices[device])
        try:
            _write(note, Holder(what=what, run_id=run_id))
            yield device
        finally:
            note.unlink(missing_ok=True)


def _waiting(devices: Mapping[str, str]) -> str:
    """Which devices are waited for, and who has them."""
    having = []
    for device, name in devices.items():
        holder, it = _read(_note(name)), device if len(devices) > 1 else "it"
        having.append(f"{holder.what} has {it} ({holder})" if holder else f"another process has {it}")
    return f"waiting for {' or '.join(devices)}: {', '.join(having)}"


def _path(name: str) -> str:
    return os.path.join(tempfile.gettempdir(), f"lance_pipeline-{os.getuid()}-{name}")


def _note(name: str) -> Path:
    return Path(f"{_path(name)}.json")


def _write(note: Path, holder: Holder) -> None:
    work = note.with_suffix(".tmp")
    try:
        work.write_text(holder.model_dump_json() + "\n")
        os.replace(work, note)
    except OSError as error:
        raise unwritable(str(work), error, _VARIABLE) from error


def _read(note: Path) -> Holder | None:
    """None for the moment between lock and note, and where another version left a note of its own kind."""
    try:
        return Holder.model_validate_json(note.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
