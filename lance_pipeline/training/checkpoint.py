"""Checkpoints on disk, from which an interrupted training resumes."""

import errno
import logging
import os
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch

from lance_pipeline.errors import DamagedError, InputError
from lance_pipeline.storage.formats import FIRST_FORMAT, FORMAT_KEY, known_fields, require_known_format
from lance_pipeline.storage.full_disk import full_disk, is_full_disk
from lance_pipeline.storage.removal import remove
from lance_pipeline.storage.sealed import SealingWriter, file_is_intact
from lance_pipeline.storage.whole_files import whole_file
from lance_pipeline.training.networks import DEFAULT_NETWORK
from lance_pipeline.training.occupancy import acquire_first

_logger = logging.getLogger(__name__)
_FILE, _PREVIOUS = "checkpoint.pt", "previous.pt"
# Version of the file's content. Since format 3 the file ends in a seal.
_FORMAT = 3
_BEGIN = "materialize with `fresh: true`, which starts from scratch"
# Values of keys that an identity leaves out.
_LEFT_OUT = {"model": DEFAULT_NETWORK}


@dataclass(frozen=True)
class Progress:
    """The content of a checkpoint.

    Attributes:
        training_id: stays the same across interruptions.
        identity: what it trains on and how; a different identity is a different training. None in a checkpoint that an
            earlier version of this package wrote.
        environments: the environments it was trained in so far, the latest last.
        state: everything that changes during training; None before the first batch.
    """

    training_id: str
    identity: dict[str, Any] | None
    environments: list[dict[str, Any]]
    state: dict[str, Any] | None


@dataclass
class Checkpoints:
    """The latest checkpoint of a training, in a folder that only one training may use at a time.

    A checkpoint is one file, which ends in a digest of its content. A new one is written beside the latest, read back
    from disk, and then replaces it; the replaced one is kept as ``previous.pt`` in case the latest is damaged later. A
    background thread does this while training continues. A checkpoint contains only tensors and plain values, so that
    torch's restricted loader can read it.

    Args:
        folder: the folder of the checkpoint; created if missing.
        training_id: the id of the training.
        identity: see ``Progress``.
        environments: see ``Progress``; includes that of this process.
        state: the state to resume from; None to start from scratch.
        every: seconds after a save until ``due`` is true again.
        on_saved: called in the thread with each state that is safely on disk.
    """

    folder: Path
    training_id: str
    identity: dict[str, Any]
    environments: list[dict[str, Any]] = field(default_factory=list)
    state: dict[str, Any] | None = None
    every: float = 600.0
    on_saved: Callable[[dict[str, Any]], None] = lambda state: None
    _saved: float = field(default_factory=time.monotonic)
    _pending: Future[None] | None = None

    @classmethod
    def begun(cls, folder: Path, identity: dict[str, Any], **more: Any) -> Self:
        """Create the checkpoint of a new training, for a later run to find.

        Raises:
            InputError: the folder cannot be written.
        """
        checkpoints = cls(folder, uuid.uuid4().hex, identity, **more)
        checkpoints._write(None)
        # It belongs to another training.
        (folder / _PREVIOUS).unlink(missing_ok=True)
        return checkpoints

    def __enter__(self) -> Self:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()

    def due(self) -> bool:
        """Whether the last save was ``every`` seconds ago or more."""
        return time.monotonic() - self._saved >= self.every

    def save(self, state: dict[str, Any]) -> None:
        """Start writing a state, which must not change any more.

        Raises:
            InputError: the previous state could not be written.
        """
        self.wait()
        self._saved = time.monotonic()
        self._pending = self._thread.submit(self._write, state)

    def wait(self) -> None:
        """Wait until the last state is on disk.

        Raises:
            InputError: it could not be written; the previous checkpoint still exists.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def remove(self) -> None:
        """Remove the checkpoint once nothing needs it any more.

        Raises:
            InputError: it cannot be removed.
        """
        remove(self.folder)

    def _write(self, state: dict[str, Any] | None) -> None:
        content = {FORMAT_KEY: _FORMAT, **vars(Progress(self.training_id, self.identity, self.environments, state))}
        latest, previous = self.folder / _FILE, self.folder / _PREVIOUS

        def keep_the_one_before(work: str) -> None:
            _require_intact(Path(work))
            if latest.exists():
                latest.replace(previous)

        try:
            if latest.exists():
                # There may be disk space for only two checkpoints, not three.
                previous.unlink(missing_ok=True)
            with whole_file(latest, keep_the_one_before) as work:
                _write_sealed(work, content)
        except (OSError, DamagedError) as error:
            if is_full_disk(error, latest):
                raise full_disk(latest) from error
            raise InputError(
                f"cannot write the checkpoint {latest}: {error}. Check its disk, then materialize again: training "
                "resumes from the last checkpoint."
            ) from error
        if state is not None:
            self.on_saved(state)


def _write_sealed(path: str, content: dict[str, Any]) -> None:
    with open(path, "wb") as file:
        writer = SealingWriter(file)
        try:
            # It has all the methods that torch calls.
            torch.save(content, writer)  # pyright: ignore[reportArgumentType]
        except RuntimeError as error:
            # torch replaces the disk's error with its own.
            raise writer.error or error from error
        writer.seal()


def _require_intact(path: Path) -> None:
    """Read back a file that was just written, bypassing the page cache where the system allows it.

    Raises:
        DamagedError: its content is not what was written.
    """
    if hasattr(os, "posix_fadvise"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if not file_is_intact(path):
        raise DamagedError("what the disk gives back is not what was written to it")


def read_checkpoint(folder: Path) -> Progress | None:
    """The latest intact checkpoint in a folder; None if there is none.

    A damaged checkpoint is logged and removed, and the previous one replaces it.

    Raises:
        InputError: it cannot be read.
        LaterFormatError: a later version of this package wrote it.
    """
    latest, previous = folder / _FILE, folder / _PREVIOUS
    for path in (latest, previous):
        try:
            found = _read(path)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise InputError(
                f"the checkpoint {path} cannot be read: {error.strerror}. Give yourself the right to read it, or "
                "materialize with `fresh: true`."
            ) from error
        except DamagedError as error:
            path.unlink()
            there_is = path == latest and previous.exists()
            then = f"The one before it, {previous}, is used" if there_is else "None is left"
            _logger.warning("The checkpoint %s is damaged (%s) and was removed. %s.", path, error, then)
            continue
        if path == previous:
            previous.replace(latest)
        return found
    return None


def _read(path: Path) -> Progress:
    try:
        intact = file_is_intact(path)
    except OSError as error:
        if error.errno == errno.EIO:
            raise DamagedError(str(error)) from error
        raise
    if intact is False:
        raise DamagedError("its digest differs")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        number = content.pop(FORMAT_KEY, FIRST_FORMAT)
    except MemoryError:
        raise
    except Exception as error:
        # torch raises many types of errors for a file that it cannot load.
        raise DamagedError(f"{type(error).__name__}: {error}") from error
    if require_known_format(number, _FORMAT, f"the checkpoint {path}", _BEGIN) < _FORMAT:
        return Progress(content.get("training_id", ""), None, [], None)
    if not intact:
        raise DamagedError("its digest is missing")
    try:
        return Progress(**known_fields(Progress, content))
    except TypeError as error:
        raise DamagedError(str(error)) from error


def exclusive(
    folder: Path,
    what: str,
    run_id: str = "",
    *,
    on_wait: Callable[[str], None],
    stop: Callable[[], str | None] = lambda: None,
) -> AbstractContextManager[object]:
    """Lock a checkpoint folder until the context or the process ends.

    Args:
        folder: created if missing.
        what: the asset being trained, such as ``digits/resnet34``; shown to waiting processes.
        run_id: the Dagster run, shown as well.
        on_wait: called with a message that names the holder, and again when the holder changes.
        stop: polled while waiting; a reason ends the wait.

    Raises:
        Stopped: ``stop`` gave a reason.
        InputError: the folder cannot be written.
    """
    return acquire_first(
        {str(folder): folder / ".lock"}, "LANCE_PIPELINE_DATA", what, run_id, on_wait=on_wait, stop=stop
    )


def differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The differences between two identities, such as ``recipe.epochs was 8 and is 10``."""
    found: list[str] = []
    for key in dict.fromkeys([*before, *now]):
        old, new = (one.get(key, _LEFT_OUT.get(prefix + key)) for one in (before, now))
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differences(old, new, f"{prefix}{key}.")
        elif old != new:
            found.append(f"{prefix}{key} was {old} and is {new}")
    return found


class Snapshot:
    """Copies of tensors on the CPU, which later steps do not change.

    Memory that occurs again in the same shape is copied only once: the best weights are usually the latest ones.
    """

    def __init__(self) -> None:
        # Keeps the originals alive: otherwise a new tensor could reuse the address of a freed one.
        self._copies: dict[tuple[Any, ...], tuple[torch.Tensor, torch.Tensor]] = {}

    def of(self, value: Any) -> Any:
        """A copy of a tensor, or of a value that contains tensors."""
        if isinstance(value, torch.Tensor):
            key = value.device, value.data_ptr(), value.dtype, value.shape, value.stride()
            if key not in self._copies:
                self._copies[key] = value, value.detach().to("cpu", copy=True)
            return self._copies[key][1]
        if isinstance(value, Mapping):
            return {key: self.of(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self.of(item) for item in value)
        return value
