"""Where a training stands, on disk: so that whatever ends it, it goes on from there."""

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
from lance_pipeline.training.occupancy import held

_logger = logging.getLogger(__name__)
_FILE, _PREVIOUS = "checkpoint.pt", "previous.pt"
# Of what is in the file. Since format 3 it ends in a seal.
_FORMAT = 3
_BEGIN = "materialize with `fresh: true`, which starts from scratch"
# Of an identity that does not name them.
_LEFT_OUT = {"model": DEFAULT_NETWORK}


@dataclass(frozen=True)
class Progress:
    """A checkpoint as it was read.

    Attributes:
        training_id: stays the same however often the training is interrupted.
        identity: what it trains on and how; another identity is another training. None in a checkpoint that another
            version of this package has written.
        environments: in which it was trained so far, the latest last.
        state: of all that moves; None before the first batch.
    """

    training_id: str
    identity: dict[str, Any] | None
    environments: list[dict[str, Any]]
    state: dict[str, Any] | None


@dataclass
class Checkpoints:
    """The latest checkpoint of a training, in a folder that only one training may use at a time.

    A checkpoint is one file, which ends in a digest of all of it. A new one is written beside the latest, read back
    from the disk, and takes its place; the one before stays as ``previous.pt``, in case the latest is damaged later. A
    thread does it while the training goes on. A checkpoint holds no more than tensors and plain values, and is read by
    torch's restricted loader.

    Args:
        folder: where; made when missing.
        training_id: of the training.
        identity: see ``Progress``.
        environments: see ``Progress``; with that of this process.
        state: what to go on from; None to begin.
        every: seconds after which ``due`` holds again.
        on_saved: called, in the thread, with each state that is safely on the disk.
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
        """Of a training that begins; from now on a next one finds it.

        Raises:
            InputError: the folder cannot be written.
        """
        checkpoints = cls(folder, uuid.uuid4().hex, identity, **more)
        checkpoints._write(None)
        # Of another training.
        (folder / _PREVIOUS).unlink(missing_ok=True)
        return checkpoints

    def __enter__(self) -> Self:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()

    def due(self) -> bool:
        """Whether the last one is so old that its loss would hurt."""
        return time.monotonic() - self._saved >= self.every

    def save(self, state: dict[str, Any]) -> None:
        """Begin to write a state, which must not change any more.

        Raises:
            InputError: the one before could not be written.
        """
        self.wait()
        self._saved = time.monotonic()
        self._pending = self._thread.submit(self._write, state)

    def wait(self) -> None:
        """Return once the last state is on the disk.

        Raises:
            InputError: it could not be written; the one before is still there.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def remove(self) -> None:
        """Remove the checkpoint, once nothing needs it any more.

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
                # There is room for two of them, not for three.
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
            # All that torch asks of it.
            torch.save(content, writer)  # pyright: ignore[reportArgumentType]
        except RuntimeError as error:
            # torch raises its own in place of the disk's.
            raise writer.error or error from error
        writer.seal()


def _require_intact(path: Path) -> None:
    """Read a file back that was just written, from the disk where the system allows it.

    Raises:
        DamagedError: it does not hold what was written.
    """
    if hasattr(os, "posix_fadvise"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if not file_is_intact(path):
        raise DamagedError("what the disk gives back is not what was written to it")


def read_checkpoint(folder: Path) -> Progress | None:
    """The latest checkpoint in a folder that is intact; None where there is none.

    A damaged one is named in the log and removed, and the one before it takes its place.

    Raises:
        InputError: it may not be read.
        LaterFormatError: a later version of this package has written it.
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
        # torch says in a dozen ways that a file is none of its own.
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
    """Have a folder of checkpoints to oneself; it is free again when the context or the process ends.

    Args:
        folder: made when missing.
        what: what is trained, such as ``digits/resnet34``; shown to those who wait.
        run_id: the Dagster run, shown as well.
        on_wait: called with whom the folder is waited for, and again when another training has it.
        stop: asked while it waits; a reason ends the waiting.

    Raises:
        Stopped: ``stop`` gave a reason.
        InputError: the folder cannot be written.
    """
    return held({str(folder): folder / ".lock"}, "LANCE_PIPELINE_DATA", what, run_id, on_wait=on_wait, stop=stop)


def differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What differs between two identities, such as ``recipe.epochs was 8 and is 10``."""
    found: list[str] = []
    for key in dict.fromkeys([*before, *now]):
        old, new = (one.get(key, _LEFT_OUT.get(prefix + key)) for one in (before, now))
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differences(old, new, f"{prefix}{key}.")
        elif old != new:
            found.append(f"{prefix}{key} was {old} and is {new}")
    return found


class Snapshot:
    """Tensors on the CPU as they are at one moment, which later steps do not change.

    Memory that is seen again, in the same shape, is copied once: the best weights are mostly the latest ones.
    """

    def __init__(self) -> None:
        # With the originals: a new tensor could come to lie where one that is gone has been.
        self._copies: dict[tuple[Any, ...], tuple[torch.Tensor, torch.Tensor]] = {}

    def of(self, value: Any) -> Any:
        """A copy of a tensor, or of a value in which there are some."""
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
