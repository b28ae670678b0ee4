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

    # A string, because Dagster's configuration has no "string or list" type.
    device: str = Field(
        default="auto",
        description="`auto`, or `cpu`, `mps`, `cuda`, `cuda:<number>`, or several of them, separated by commas: "
        "training uses the first free one. An absent device is an error.",
    )
    precision: str = Field(
        default="auto",
        description="`auto` (bf16 or fp16 on CUDA, fp32 elsewhere), or `fp32`, `bf16`, `fp16`.",
    )
    threads: int | None = Field(
        default=None,
        ge=1,
        description="Threads of a training on the CPU. When set, several trainings run on the CPU at once, as many as "
        "there are cores for; when unset, one training uses all cores.",
    )
    exclusive: bool = Field(
        default=True,
        description="Whether a training waits for a device that another one uses. With false, trainings share "
        "devices: each uses the preferred one.",
    )

    def pick(self, *, devices: str | Sequence[str] | None = None, precision: str = "auto") -> "Device":
        """The device to use now and the reason for it, even if another training occupies it.

        Args:
            devices: one device, or several in order of preference; overrides the resource's setting.
            precision: overrides the resource's setting, unless it is ``auto``.

        Raises:
            InputError: a configured device is absent, or does not support the precision.
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
        """Acquire the first free device, exclusively among the trainings of this user on this host.

        Waits while all devices are occupied. A device is free again when the context or the process ends, however
        it ends. With ``threads`` the CPU counts as several devices; without ``exclusive`` no device is ever occupied.

        Args:
            what: what is trained, such as ``digits/resnet34``; shown to waiting trainings.
            run_id: the Dagster run, also shown.
            devices: one device, or several in order of preference; overrides the resource's setting.
            precision: overrides the resource's setting, unless it is ``auto``.
            on_wait: called with the current holders of the devices, and again when the holders change.
            stop: polled while waiting; a returned reason, such as ``SIGTERM``, ends the wait.

        Raises:
            InputError: a configured device is absent or does not support the precision, or there is no folder for
                its lock.
            Stopped: `stop` returned a reason.
        """
        from lance_pipeline.training.occupancy import acquire_device

        candidates = self._candidates(devices, precision)
        places = {place: device for device in candidates for place in _places(device, self.threads)}
        names = {place: place.replace(device.name, device.hardware, 1) for place, device in places.items()}
        alone = acquire_device(names, what, run_id, on_wait=on_wait, stop=stop)
        with alone if self.exclusive else nullcontext(next(iter(places))) as place:
            device = places[place]
            if taken := [one.name for one in candidates[: candidates.index(device)]]:
                device = replace(device, reason=f"{device.reason}; {', '.join(taken)} was in use")
            with _torch_threads(self.threads) if device.name == "cpu" and self.threads else nullcontext():
                yield device

    def _candidates(self, devices: str | Sequence[str] | None, precision: str) -> "list[Device]":
        from lance_pipeline.training.device import candidate_devices

        return candidate_devices(
            self.device if devices is None else devices, self.precision if precision == "auto" else precision
        )


def _places(device: "Device", threads: int | None) -> list[str]:
    """Names to lock for a device: the device itself, or one part of the CPU for each training that fits."""
    if device.name != "cpu" or threads is None:
        return [device.name]
    # The first name stands for the whole CPU: a training without `threads` waits for the one that holds it.
    return [device.name, *(f"{device.name}-{part}" for part in range(2, _cores() // threads + 1))]


def _cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


@contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    """Set the number of torch's threads within the context."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
