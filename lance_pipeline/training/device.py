"""Which device trains, in which precision, and why."""

from dataclasses import dataclass
from typing import Literal

import torch

from lance_pipeline.errors import InputError

Precision = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class Device:
    """The device in use: torch's name for it, the precision of the forward pass, and the reason."""

    name: str
    precision: Precision
    reason: str

    @property
    def torch_device(self) -> torch.device:
        """As torch wants it."""
        return torch.device(self.name)

    def autocast(self) -> torch.autocast:
        """The context of a forward pass; it changes nothing in fp32."""
        dtype = torch.float16 if self.precision == "fp16" else torch.bfloat16
        return torch.autocast(self.torch_device.type, dtype=dtype, enabled=self.precision != "fp32")


def choose_device(device: str = "auto", precision: str = "auto") -> Device:
    """The configured device, or with ``auto`` the first of CUDA, MPS and the CPU that is there.

    ``precision="auto"`` is bf16 (fp16 on older cards) on CUDA, where tensor cores make it pay, and
    fp32 elsewhere.

    Raises:
        InputError: the configured device is absent, or cannot do the configured precision.
    """
    if device == "auto":
        name, reason = _first_device()
    else:
        _require(device)
        name, reason = device, f"`device: {device}` is configured"
    return Device(name, _precision(name, precision), reason)


def _first_device() -> tuple[str, str]:
    if torch.cuda.is_available():
        return "cuda", f"auto: CUDA is available ({torch.cuda.get_device_name()})"
    if torch.backends.mps.is_available():
        return "mps", "auto: no CUDA device, MPS is available"
    return "cpu", "auto: neither CUDA nor MPS is available"


def _require(device: str) -> None:
    kind, _, index = device.partition(":")
    cards = torch.cuda.device_count() if torch.cuda.is_available() else 0
    there = {"cpu": device == "cpu", "mps": device == "mps" and torch.backends.mps.is_available()}
    there["cuda"] = cards > 0 if not index else index.isdecimal() and int(index) < cards
    if kind not in there:
        raise InputError(f"`device: {device}` is not known. Expected auto, cpu, mps, cuda or cuda:<number>.")
    if not there[kind]:
        raise InputError(
            f"`device: {device}` is configured, but it is not there: this machine has {cards} CUDA devices"
            f"{', and MPS' if torch.backends.mps.is_available() else ''}. Configure a device that is there, "
            "or `auto` to take the best one (LANCE_PIPELINE_DEVICE, or the resource `gpu`)."
        )


def _precision(name: str, precision: str) -> Precision:
    cuda = name.startswith("cuda")
    match precision:
        case "auto":
            if not cuda:
                return "fp32"
            return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
        case "fp32":
            return "fp32"
        case "bf16" | "fp16" if cuda:
            return precision
    raise InputError(
        f"`precision: {precision}` does not go with device {name}. Expected auto or fp32"
        f"{', bf16 or fp16' if cuda else ' (bf16 and fp16 are for CUDA)'}."
    )
