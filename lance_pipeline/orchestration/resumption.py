"""Whether a training goes on from a checkpoint or begins anew."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from lance_pipeline.errors import InputError

if TYPE_CHECKING:
    from lance_pipeline.training.checkpoint import Checkpoints, Progress


def checkpoints_to_use(
    context: dg.AssetExecutionContext, folder: Path, identity: dict[str, Any], *, fresh: bool, every: float
) -> tuple["Checkpoints", str | None]:
    """Those of the interrupted training where it can go on, else of one that begins; the log says which and why.

    Args:
        context: of the step that trains.
        folder: of the checkpoint, which this process has to itself.
        identity: what settles the outcome of the training.
        fresh: begin in any case.
        every: seconds between two checkpoints.

    Returns:
        The checkpoints, and the id of the interrupted training that nobody will go on with, if there is one.

    Raises:
        InputError: the checkpoint cannot be read, or none can be written.
    """
    from lance_pipeline.training.checkpoint import Checkpoints

    found = _found(folder, fresh=fresh)
    ended = found is not None and _has_ended(context, found)
    reasons = _reasons_to_begin(found, identity, fresh=fresh, ended=ended)
    if found is not None and not reasons:
        context.log.info(f"Goes on with the interrupted training {found.training_id}")
        return Checkpoints(folder, found.training_id, identity, found.state, every), None
    context.log.info(f"Trains anew: {'; '.join(reasons)}" if reasons else "Trains anew")
    abandoned = found.training_id if found is not None and not ended else None
    return Checkpoints.begun(folder, identity, every=every), abandoned


def _found(folder: Path, *, fresh: bool) -> "Progress | None":
    from lance_pipeline.training.checkpoint import read_checkpoint

    try:
        return read_checkpoint(folder)
    except InputError:
        # `fresh` is what its message advises.
        if fresh:
            return None
        raise


def _has_ended(context: dg.AssetExecutionContext, found: "Progress") -> bool:
    event = context.instance.get_latest_materialization_event(context.asset_key)
    latest = event.asset_materialization if event is not None else None
    ended = latest.metadata.get("training_id") if latest is not None else None
    return ended is not None and ended.value == found.training_id


def _reasons_to_begin(found: "Progress | None", identity: dict[str, Any], *, fresh: bool, ended: bool) -> list[str]:
    from lance_pipeline.training.checkpoint import differences

    if fresh:
        return ["`fresh` asks for it"]
    if ended:
        return ["the last training has ended"]
    return [] if found is None else differences(found.identity, identity)
