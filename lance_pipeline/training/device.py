"""Which device trains, in which precision, and why."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch

from lance_pipeline.errors import InputError
from lance_pipeline.training.device_names import device_names

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

    @property
    def hardware(self) -> str:
        """What all processes of this host call it, in letters that a file's name may have.

        A card's number says nothing between processes, for CUDA_VISIBLE_DEVICES numbers them anew; its UUID
        does. Where torch does not know it, the number has to do.
        """
        if self.torch_device.type != "cuda":
            return self.name
        uuid = getattr(torch.cuda.get_device_properties(self.torch_device), "uuid", None)
        return f"cuda-{(self.torch_device.index or 0) if uuid is None else uuid}"

    def autocast(self) -> torch.autocast:
        """The context of a forward pass; it changes nothing in fp32."""
        # No weight is used twice, and a CUDA graph must not find casts from before.
        dtype = torch.float16 if self.precision == "fp16" else torch.bfloat16
        return torch.autocast(
            self.torch_device.type, dtype=dtype, enabled=self.precision != "fp32", cache_enabled=False
        )


@contextmanager
def reproducible(deterministic: bool = True) -> Iterator[None]:
    """Within, equal computations on one kind of card end with equal bits; on the CPU it changes nothing.

    Otherwise cuDNN races all its algorithms for the fastest.

    cuDNN takes deterministic algorithms only, and does not choose them by a race, whose winner changes. cuBLAS
    needs no setting (such as CUBLAS_WORKSPACE_CONFIG): torch gives it a workspace for each stream, and a training
    computes in one. What else a ResNet does on CUDA is deterministic anyway; attention and the adaptive pooling of
    AlexNet and VGG may not be. The settings are the process's.
    """
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = deterministic, not deterministic
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before


def choose_device(devices: str | Sequence[str] = "auto", precision: str = "auto") -> Device:
    """The first of `candidate_devices`, with the same arguments and errors."""
    return candidate_devices(devices, precision)[0]


def candidate_devices(devices: str | Sequence[str] = "auto", precision: str = "auto") -> list[Device]:
    """The configured devices, each once, the preferred one first.

    Args:
        devices: one or several, see `device_names`. ``auto`` is all CUDA devices, or else MPS, or else the CPU;
            ``cuda`` is ``cuda:0``.
        precision: ``auto`` is bf16 (fp16 on older cards) on CUDA, where tensor cores make it pay, and fp32
            elsewhere.

    Raises:
        InputError: a device is not known or not there, or cannot do the configured precision.
    """
    found: dict[str, Device] = {}
    for configured in device_names(devices):
        for name, reason in _best_devices() if configured == "auto" else [_present(configured)]:
            found.setdefault(name, Device(name, _precision(name, precision), reason))
    return list(found.values())


def _best_devices() -> list[tuple[str, str]]:
    """Names and reasons."""
    if torch.cuda.is_available():
        cards = range(torch.cuda.device_count())
        return [(f"cuda:{card}", f"auto: CUDA is available ({torch.cuda.get_device_name(card)})") for card in cards]
    if torch.backends.mps.is_available():
        return [("mps", "auto: no CUDA device, MPS is available")]
    return [("cpu", "auto: neither CUDA nor MPS is available")]


def _present(configured: str) -> tuple[str, str]:
    """Name and reason of a device that has to be there."""
    kind, _, number = configured.partition(":")
    card = int(number or 0)
    cards = torch.cuda.device_count() if torch.cuda.is_available() else 0
    mps = torch.backends.mps.is_available()
    if not {"cpu": True, "mps": mps, "cuda": card < cards}[kind]:
        raise InputError(
            f"`device: {configured}` is configured, but it is not there: this machine has {cards} CUDA devices"
            f"{', and MPS' if mps else ''}. Configure a device that is there, or `auto` to take the best one "
            "(`device` in the defs.yaml, LANCE_PIPELINE_DEVICE, or the resource `gpu`)."
        )
    return f"cuda:{card}" if kind == "cuda" else kind, f"`device: {configured}` is configured"


def _precision(name: str, precision: str) -> Precision:
    cuda = name.startswith("cuda")
    match precision:
        case "auto":
            if not cuda:
                return "fp32"
            # torch.cuda.is_bf16_supported() also says yes to older cards, which emulate it.
            bf16 = torch.version.hip is not None or torch.cuda.get_device_capability(name) >= (8, 0)
            return "bf16" if bf16 else "fp16"
        case "fp32":
            return "fp32"
        case "bf16" | "fp16" if cuda:
            return precision
    raise InputError(
        f"`precision: {precision}` does not go with device {name}. Expected auto or fp32"
        f"{', bf16 or fp16' if cuda else ' (bf16 and fp16 are for CUDA)'}."
    )
