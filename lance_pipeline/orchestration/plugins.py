"""A project's own checks and metrics, from the modules under ``plugins`` in a ``defs.yaml``."""

import importlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lance_pipeline.errors import InputError
from lance_pipeline.quality.split_checks import SPLIT_CHECKS, SplitCheck

if TYPE_CHECKING:
    from lance_pipeline.evaluation.metrics import Metric

_NAME = "[a-z][a-z0-9_]*"
# The metadata of the metrics' assets.
_TAKEN = {
    "accuracy", "top5_accuracy", "macro_f1", "loss", "page", "result", "confusion", "per_class", "predictions",
    "predictions_version", "model_sha256", "lance_version", "mlflow_run", "record",
}  # fmt: skip
_EXPECTED = "`CHECKS`, SplitCheck objects, or `METRICS`, functions by their names"


@dataclass(frozen=True)
class Plugins:
    """Checks and metrics in addition to the built-in ones.

    Attributes:
        checks: the checks of each split.
        metrics: the metrics of each split's predictions, by name.
    """

    checks: tuple[SplitCheck, ...] = ()
    metrics: "dict[str, Metric]" = field(default_factory=dict)


NO_PLUGINS = Plugins()
"""No additional checks or metrics."""


def load_plugins(modules: Sequence[str]) -> Plugins:
    """Load ``CHECKS`` and ``METRICS`` from modules.

    Raises:
        InputError: a module cannot be imported, has neither, or uses a name that is invalid or taken.
    """
    checks: list[SplitCheck] = []
    metrics: dict[str, Metric] = {}
    for name in modules:
        try:
            module = importlib.import_module(name)
        except Exception as error:
            raise InputError(
                f"`plugins: [{name}]`: {type(error).__name__}: {error}. Expected the name of a Python module with "
                f"{_EXPECTED}."
            ) from error
        own_checks, own_metrics = getattr(module, "CHECKS", ()), getattr(module, "METRICS", {})
        wrong = [one for one in own_checks if not isinstance(one, SplitCheck)]
        if wrong or not all(map(callable, own_metrics.values())) or not (own_checks or own_metrics):
            raise InputError(f"`plugins: [{name}]`: expected {_EXPECTED} in that module.")
        _require_free(name, [one.name for one in own_checks], {one.name for one in (*SPLIT_CHECKS, *checks)})
        _require_free(name, list(own_metrics), _TAKEN | metrics.keys())
        checks += own_checks
        metrics |= own_metrics
    return Plugins(tuple(checks), metrics)


def _require_free(module: str, names: list[str], taken: set[str]) -> None:
    for place, name in enumerate(names):
        if not re.fullmatch(_NAME, name):
            raise InputError(
                f"`plugins: [{module}]`: {name!r} is not a valid name; expected lowercase letters, digits and _."
            )
        if name in taken or name in names[:place]:
            raise InputError(f"`plugins: [{module}]`: the name {name!r} is taken; choose another one.")
