"""Whether a training resumes from a checkpoint or starts from scratch."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from lance_pipeline.display import printable
from lance_pipeline.errors import InputError
from lance_pipeline.storage.formats import LaterFormatError

if TYPE_CHECKING:
    from lance_pipeline.training.checkpoint import Checkpoints, Progress
    from lance_pipeline.training.device import Device


def checkpoints_to_use(
    log: Callable[[str], None],
    made: Callable[[], Iterator[str]],
    folder: Path,
    identity: dict[str, Any],
    device: "Device",
    *,
    fresh: bool,
    every: float,
) -> "Checkpoints":
    """Checkpoints of the interrupted training if it can resume, else of a new one; the log says which and why.

    Each identity has its own folder. When a training starts from scratch, the latest unfinished training of another
    identity keeps its checkpoint: with its old settings and data it can still resume.

    Args:
        log: called with a line for the log.
        made: yields the ids of finished trainings, the latest first.
        folder: the dataset's folder of checkpoints, which this process has locked.
        identity: everything that determines the training's result.
        device: the device that trains.
        fresh: always start from scratch.
        every: seconds between two checkpoints.

    Raises:
        InputError: the checkpoint cannot be read, or none can be written.
    """
    from lance_pipeline.training.checkpoint import Checkpoints, differences
    from lance_pipeline.training.environment import environment

    own, now = folder / _folder_name(identity), environment(device)
    there_was = any(own.glob("*.pt"))
    found = _progress_in(own, fresh=fresh)
    reasons = _reasons_to_begin(made, found, identity, fresh=fresh)
    if there_was and found is None and not fresh:
        reasons = ["no checkpoint of it is intact"]
    if found is None or reasons:
        others = _others_unfinished(made, folder, own)
        latest = next(iter(others.values()), None)
        reasons = reasons or _reasons_to_begin(made, latest, identity, fresh=fresh)
        if not reasons and latest is None and any(True for _ in made()):
            # Its checkpoint was removed with it.
            reasons = ["the last training has ended"]
        log(printable(f"Starting from scratch: {'; '.join(reasons)}" if reasons else "Starting from scratch"))
        kept = next((path for path, other in others.items() if other.state is not None), None)
        for path in folder.glob("*/"):
            if path not in (own, kept) and not _is_of_later_version(path):
                shutil.rmtree(path)
        return Checkpoints.begun(own, identity, environments=[now], every=every)
    changes = differences(found.environments[-1], now)
    where = f", in another environment: {'; '.join(changes)}" if changes else ""
    log(printable(f"Resuming training {found.training_id}{where}"))
    environments = [*found.environments, now] if changes else found.environments
    return Checkpoints(own, found.training_id, identity, environments, found.state, every)


def has_checkpoint(folder: Path, identity: dict[str, Any]) -> bool:
    """Whether the dataset's folder of checkpoints has one of an interrupted training of this identity."""
    return any((folder / _folder_name(identity)).glob("*.pt"))


def identity_digest(identity: dict[str, Any]) -> str:
    """The SHA-256 of a training's identity, in hexadecimal."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _folder_name(identity: dict[str, Any]) -> str:
    return identity_digest(identity)[:16]


def _others_unfinished(made: Callable[[], Iterator[str]], folder: Path, own: Path) -> "dict[Path, Progress]":
    """Unfinished trainings of other identities, by folder, the most recently saved first."""
    others = sorted((path for path in folder.glob("*/") if path != own), key=lambda path: -path.stat().st_mtime)
    found = {path: progress for path in others if (progress := _progress_in(path, fresh=True)) is not None}
    return {path: progress for path, progress in found.items() if not _is_finished(made, progress)}


def _progress_in(folder: Path, *, fresh: bool) -> "Progress | None":
    from lance_pipeline.training.checkpoint import read_checkpoint

    try:
        return read_checkpoint(folder)
    except InputError:
        # The message of the error advises `fresh`.
        if fresh:
            return None
        raise


def _is_of_later_version(folder: Path) -> bool:
    """Whether a later version of this package, which can still resume there, wrote the checkpoint."""
    from lance_pipeline.training.checkpoint import read_checkpoint

    try:
        read_checkpoint(folder)
    except LaterFormatError:
        return True
    except InputError:
        return False
    return False


def _reasons_to_begin(
    made: Callable[[], Iterator[str]], found: "Progress | None", identity: dict[str, Any], *, fresh: bool
) -> list[str]:
    from lance_pipeline.training.checkpoint import differences

    if fresh:
        return ["`fresh` is set"]
    if found is None:
        return []
    if _is_finished(made, found):
        return ["the last training has ended"]
    if found.identity is None:
        return ["another version of this package has written the checkpoint"]
    return differences(found.identity, identity)


def _is_finished(made: Callable[[], Iterator[str]], found: "Progress") -> bool:
    """Whether it has ended, even long ago: another training may have resumed and ended between its runs."""
    return found.training_id in made()


def finished_trainings(instance: dg.DagsterInstance, key: dg.AssetKey) -> Iterator[str]:
    """The ids of the finished trainings of an asset, the latest first."""
    cursor = None
    while True:
        page = instance.fetch_materializations(key, limit=100, cursor=cursor)
        for made in (record.asset_materialization for record in page.records):
            if made is not None and "training_id" in made.metadata:
                yield str(made.metadata["training_id"].value)
        if not page.has_more:
            return
        cursor = page.cursor
