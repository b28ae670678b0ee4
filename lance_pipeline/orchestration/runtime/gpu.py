"""The accelerator as a resource."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import dagster as dg
from pydantic import Field

from lance_pipeline.orchestration.settled import Settled

if TYPE_CHECKING:
    from lance_pipeline.training.device import Device


class GpuResource(Settled, dg.ConfigurableResource):
    """Picks the device that trains and evaluates: CUDA, then MPS, then the CPU, or what is configured."""

    at_launch: ClassVar[Mapping[str, Any]] = {"device": str, "precision": str}

    # A text, for Dagster's configuration knows no "text or list".
    device: str = Field(
        default="auto",
        description="`auto`, or `cpu`, `mps`, `cuda`, `cuda:<number>`, or several of them with commas between them: "
        "training takes the first that is free. One that is absent is an error.",
    )
    precision: str = Field(
        default="auto",
        description="`auto` (bf16 or fp16 on CUDA, fp32 elsewhere), or `fp32`, `bf16`, `fp16`.",
    )
    threads: int | None = Field(
        default=None,
        ge=1,
        description="Threads of a training on the CPU. When set, as many trainings as have so many cores each run on "
        "the CPU side by side; when unset one training has all cores.",
    )
    exclusive: bool = Field(
        default=True,
        description="Whether a training waits for a device that another one uses. With false trainings share devices: "
        "each takes the preferred one.",
    )

    def pick(self, *, devices: str | Sequence[str] | None = None, precision: str = "auto") -> "Device":
        """The device to use now, and why, whether or not somebody trains on it.

        Args:
            devices: the device, or several in the order of preference, instead of the resource's.
            precision: instead of the resource's, unless it is ``auto``.

        Raises:
            InputError: a configured device is absent, or cannot do the precision.
        """
        return self._candidates(devices, precision)[0]

    @contextmanager
    def hold(
        self,
        what: str,
        run_id: str = "",
        *,
        devices: str | Sequence[str] | None = None,
        precision: str = "auto",
        on_wait: Callable[[str], None],
        stop: Callable[[], str | None] = lambda: None,
    ) -> Iterator["Device"]:
        """Yield the first free device, which no other training of this user on this host gets meanwhile.

        While all are taken it sleeps. A device is free again when the context or the process ends, however
        it ends. With ``threads`` the CPU counts as several devices; without ``exclusive`` none is ever taken.

        Args:
            what: what is trained, such as ``digits/resnet34``; shown to those who wait.
            run_id: the Dagster run, shown as well.
            devices: the device, or several in the order of preference, instead of the resource's.
            precision: instead of the resource's, unless it is ``auto``.
            on_wait: called with whom the devices are waited for, and again when others have them.
            stop: asked while it waits; a reason, such as ``SIGTERM``, ends the waiting.

        Raises:
            InputError: a configured device is absent, or cannot do the precision, or there is no folder for
                its lock.
            Stopped: `stop` gave a reason.
        """
        from lance_pipeline.training.occupancy import occupied

        candidates = self._candidates(devices, precision)
        places = {place: device for device in candidates for place in _places(device, self.threads)}
        names = {place: place.replace(device.name, device.hardware, 1) for place, device in places.items()}
        alone = occupied(names, what, run_id, on_wait=on_wait, stop=stop)
        with alone if self.exclusive else nullcontext(next(iter(places))) as place:
            device = places[place]
            if taken := [one.name for one in candidates[: candidates.index(device)]]:
                device = replace(device, reason=f"{device.reason}; {', '.join(taken)} was taken")
            with _torch_threads(self.threads) if device.name == "cpu" and self.threads else nullcontext():
                yield device

    def _candidates(self, devices: str | Sequence[str] | None, precision: str) -> "list[Device]":
        from lance_pipeline.training.device import candidate_devices

        return candidate_devices(
            self.device if devices is None else devices, self.precision if precision == "auto" else precision
        )


def _places(device: "Device", threads: int | None) -> list[str]:
    """What is locked of a device: itself, or a part of the CPU for each training that may run there."""
    if device.name != "cpu" or threads is None:
        return [device.name]
    # The first is the whole CPU's: a training without a number of threads waits for one with it.
    return [device.name, *(f"{device.name}-{part}" for part in range(2, _cores() // threads + 1))]


def _cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


@contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    """Have torch compute with so many threads meanwhile."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
