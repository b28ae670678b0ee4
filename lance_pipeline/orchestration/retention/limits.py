"""The limits of ``maintenance.keep``."""

import time
from collections.abc import Mapping

from lance_pipeline.orchestration.attributes import Keep


def within_limits(made: Mapping[str, float], keep: Keep, now: float | None = None) -> dict[str, str]:
    """Reasons to keep things that are among the latest or young enough; other things are left out.

    Args:
        made: when each was made, as a Unix time.
        keep: the limits.
        now: the current time; read from the clock when None.
    """
    now = time.time() if now is None else now
    latest_first = sorted(made, key=lambda name: (-made[name], name))
    return dict.fromkeys(latest_first[: keep.models], f"one of the latest {keep.models}") | {
        name: f"younger than {keep.days:g} days"
        for name in latest_first[keep.models :]
        if now - made[name] < keep.days * 86400
    }
