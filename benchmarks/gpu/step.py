"""The speed of a training step, bare in several variants and ours, on batches that are already on the device."""

import gc
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch

from benchmarks.gpu.bare import (
    NoGraphError,
    Step,
    bare_step,
    own_step,
    synchronize,
    synthetic_batch,
)
from benchmarks.gpu.part import Figures, Job, reason
from benchmarks.gpu.sizes import Cell, Sizes
from lance_pipeline.training.device import Device, choose_device, reproducible

_WARM_UP = 12
_MOST = 2000
# The maximum seconds for one batch shape on a GPU; shapes that no longer fit into the time are left out.
_CELL_SECONDS = 15
_COMPILING_SECONDS = 50


class NothingMeasuredError(RuntimeError):
    """No batch shape was measured."""


@dataclass(frozen=True)
class Contestant:
    """An implementation of the step, and the cuDNN settings that it runs with."""

    make: Callable[[], Step]
    flags: Callable[[], AbstractContextManager[Any]]


def measure(job: Job, figures: Figures) -> None:
    """Measure all cells, then the first of them with ``torch.compile``, which takes long to compile."""
    sizes, device = job.sizes, choose_device(job.device)
    figures.put("precision", device.precision)
    cells: list[dict[str, Any]] = []
    left_out: list[str] = []
    plans = [(cell, _contestants(cell, device), _CELL_SECONDS) for cell in sizes.cells]
    compiled = sizes.cells[: sizes.compiled]
    plans += [(cell, _compiled(cell, device, sizes.compiler), _COMPILING_SECONDS) for cell in compiled]
    for cell, contestants, seconds in plans:
        if not job.fits(seconds):
            left_out.append(f"{cell}: {', '.join(contestants)}")
            figures.put("left_out", left_out)
            continue
        with figures.attempt(f"{cell}: {', '.join(contestants)}"):
            cells.append(asdict(cell) | measured(cell, contestants, device, sizes))
            figures.put("cells", cells)
        gc.collect()
        torch.cuda.empty_cache()
    if not cells:
        raise NothingMeasuredError("there was no time for any of them, or all failed")


def measured(cell: Cell, contestants: dict[str, Contestant], device: Device, sizes: Sizes) -> dict[str, Any]:
    """Images per second of each contestant in each round, in turn, and the errors of those that failed."""
    batch = synthetic_batch(cell, device)
    steps: dict[str, Step] = {}
    counts: dict[str, int] = {}
    errors: dict[str, str] = {}
    for name, contestant in contestants.items():
        try:
            with contestant.flags():
                steps[name] = contestant.make()
                counts[name] = _warmed_up(steps[name], batch, sizes.slice)
        except NoGraphError as error:
            errors[name] = str(error)
        except Exception as error:  # noqa: BLE001
            errors[name] = reason(error)
            print(f"{name}: {errors[name]}", flush=True)
    names = [name for name in contestants if name in counts]
    rates: dict[str, list[float]] = {name: [] for name in names}
    for number in range(sizes.rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            with contestants[name].flags():
                seconds = _timed(steps[name], batch, counts[name])
            rates[name].append(counts[name] * cell.batch / seconds)
    return {"rates": rates, "errors": errors}


def _contestants(cell: Cell, device: Device) -> dict[str, Contestant]:
    """Bare and our steps, deterministic and not; our step also in eager mode if a recipe can select it."""
    found: dict[str, Contestant] = {}
    for name, deterministic in (("deterministic", True), ("free", False)):
        for how in ("eager", "graph"):
            flags = partial(reproducible, deterministic)
            found[f"bare {how}, {name}"] = Contestant(partial(bare_step, cell, device, how), flags)
        settings = {"deterministic": deterministic}
        flags = partial(reproducible, deterministic)
        found[f"ours, {name}"] = Contestant(partial(own_step, cell, device, **settings), flags)
        eager = partial(own_step, cell, device, **settings, step="eager")
        found[f"ours eager, {name}"] = Contestant(eager, flags)
    return found


def _compiled(cell: Cell, device: Device, compiler: str) -> dict[str, Contestant]:
    flags = partial(reproducible, deterministic=False)
    return {
        "bare eager, free": Contestant(partial(bare_step, cell, device, "eager"), flags),
        f"bare compiled by {compiler}, free": Contestant(partial(bare_step, cell, device, "compiled", compiler), flags),
        "ours, deterministic": Contestant(partial(own_step, cell, device), partial(reproducible, deterministic=True)),
    }


def _warmed_up(step: Step, batch: tuple[torch.Tensor, torch.Tensor], seconds: float) -> int:
    """The number of steps that take the given seconds, at least 2."""
    for _ in range(_WARM_UP if torch.cuda.is_available() else 1):
        step(*batch)
    took = min(_timed(step, batch, 2) / 2 for _ in range(2))
    return min(max(round(seconds / took), 2), _MOST)


def _timed(step: Step, batch: tuple[torch.Tensor, torch.Tensor], count: int) -> float:
    """The seconds of a number of steps."""
    synchronize()
    began = time.perf_counter()
    for _ in range(count):
        step(*batch)
    synchronize()
    return time.perf_counter() - began
