"""Where a training stands, on disk: so that whatever ends it, it goes on from there."""

import os
import pickle
import shutil
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch

from lance_pipeline.errors import InputError
from lance_pipeline.training.occupancy import held

_FILE = "checkpoint.pt"
_WORK = f".{_FILE}"
# Of what is in the file.
_FORMAT = 2


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

    A checkpoint is one file, replaced as a whole once the new one is safely on the disk; a thread does it while the
    training goes on. It holds no more than tensors and plain values, and is read by torch's restricted loader.

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

    def _write(self, state: dict[str, Any] | None) -> None:
        content = {"format": _FORMAT, **vars(Progress(self.training_id, self.identity, self.environments, state))}
        work = self.folder / _WORK
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with work.open("wb") as file:
                torch.save(content, file)
                file.flush()
                os.fsync(file.fileno())
            work.replace(self.folder / _FILE)
        except (OSError, RuntimeError) as error:
            # torch turns some errors of the disk into a RuntimeError.
            work.unlink(missing_ok=True)
            raise InputError(self._full(error)) from error
        if state is not None:
            self.on_saved(state)

    def _full(self, error: Exception) -> str:
        there = next(folder for folder in (self.folder, *self.folder.parents) if folder.exists())
        before = "the one before it is intact" if (self.folder / _FILE).exists() else "there is none yet"
        return (
            f"cannot write the checkpoint {self.folder / _FILE}: {error}; {before}. "
            f"{shutil.disk_usage(there).free:,} bytes are free there. Free some space (the cache of decoded images, "
            "models that nobody needs any more), then materialize again: the training goes on from its last checkpoint."
        )


def read_checkpoint(folder: Path) -> Progress | None:
    """The checkpoint in a folder; None where there is none.

    Raises:
        InputError: it cannot be read.
    """
    path = folder / _FILE
    (folder / _WORK).unlink(missing_ok=True)
    if not path.exists():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        if content.pop("format", None) != _FORMAT:
            return Progress(content.get("training_id", ""), None, [], None)
        return Progress(**content)
    except (OSError, RuntimeError, pickle.UnpicklingError, AttributeError, EOFError) as error:
        raise InputError(
            f"the checkpoint {path} cannot be read ({type(error).__name__}). Delete it, or materialize with "
            "`fresh: true`."
        ) from error


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
    for key in [*before, *(key for key in now if key not in before)]:
        old, new = before.get(key), now.get(key)
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
