"""The accelerator as a resource."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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
        it ends.

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

        candidates = {device.name: device for device in self._candidates(devices, precision)}
        names = {name: device.hardware for name, device in candidates.items()}
        with occupied(names, what, run_id, on_wait=on_wait, stop=stop) as name:
            device, taken = candidates[name], list(candidates)[: list(candidates).index(name)]
            if taken:
                device = replace(device, reason=f"{device.reason}; {', '.join(taken)} was taken")
            yield device

    def _candidates(self, devices: str | Sequence[str] | None, precision: str) -> "list[Device]":
        from lance_pipeline.training.device import candidate_devices

        return candidate_devices(
            self.device if devices is None else devices, self.precision if precision == "auto" else precision
        )
