"""The accelerator as a resource."""

from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

if TYPE_CHECKING:
    from lance_pipeline.training.device import Device


class GpuResource(dg.ConfigurableResource):
    """Picks the device that trains and evaluates: CUDA, then MPS, then the CPU, or what is configured."""

    device: str = Field(
        default="auto", description="`auto`, or `cpu`, `mps`, `cuda`, `cuda:<number>`; one that is absent is an error."
    )
    precision: str = Field(
        default="auto",
        description="`auto` (bf16 or fp16 on CUDA, fp32 elsewhere), or `fp32`, `bf16`, `fp16`.",
    )

    def pick(self) -> "Device":
        """The device to use now, and why.

        Raises:
            InputError: the configured device is absent.
        """
        from lance_pipeline.training.device import choose_device

        return choose_device(self.device, self.precision)
