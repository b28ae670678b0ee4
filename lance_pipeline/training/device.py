"""The training device, its precision, and the reason for the choice."""

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
        """The device as a torch object."""
        return torch.device(self.name)

    @property
    def hardware(self) -> str:
        """A name that is the same in all processes on this host, and valid in a file name.

        A card's number differs between processes, because CUDA_VISIBLE_DEVICES renumbers the cards; its UUID does
        not. If torch does not know the UUID, the number is used.
        """
        if self.torch_device.type != "cuda":
            return self.name
        uuid = getattr(torch.cuda.get_device_properties(self.torch_device), "uuid", None)
        return f"cuda-{(self.torch_device.index or 0) if uuid is None else uuid}"

    def autocast(self) -> torch.autocast:
        """The context of a forward pass; without effect in fp32."""
        # A cache gains nothing, as no weight is used twice, and a CUDA graph must not reuse earlier casts.
        dtype = torch.float16 if self.precision == "fp16" else torch.bfloat16
        return torch.autocast(
            self.torch_device.type, dtype=dtype, enabled=self.precision != "fp32", cache_enabled=False
        )


@contextmanager
def reproducible(deterministic: bool = True) -> Iterator[None]:
    """Make equal computations on the same type of card bitwise equal; without effect on the CPU.

    If ``deterministic`` is false, cuDNN benchmarks all its algorithms and takes the fastest.

    Otherwise cuDNN uses only deterministic algorithms, and does not benchmark, as the winner varies. cuBLAS needs no
    setting (such as CUBLAS_WORKSPACE_CONFIG): torch gives it a workspace for each stream, and a training uses one
    stream. Everything else in a ResNet is deterministic on CUDA anyway; attention and the adaptive pooling of AlexNet
    and VGG may not be. The settings apply to the whole process.
    """
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = deterministic, not deterministic
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before


@contextmanager
def own_random_numbers() -> Iterator[None]:
    """Leave torch's global generators as they were; within the context they may be seeded and drawn from."""
    cards = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(cards):
        yield


def choose_device(devices: str | Sequence[str] = "auto", precision: str = "auto") -> Device:
    """The first of `candidate_devices`, with the same arguments and errors."""
    return candidate_devices(devices, precision)[0]


def candidate_devices(devices: str | Sequence[str] = "auto", precision: str = "auto") -> list[Device]:
    """The configured devices without duplicates, the preferred one first.

    Args:
        devices: one or several, see `device_names`. ``auto`` means all CUDA devices, else MPS, else the CPU; ``cuda``
            means ``cuda:0``.
        precision: ``auto`` means bf16 (fp16 on older cards) on CUDA, where tensor cores make it faster, and fp32
            elsewhere.

    Raises:
        InputError: a device is unknown or missing, or does not support the configured precision.
    """
    found: dict[str, Device] = {}
    for configured in device_names(devices):
        for name, reason in _best_devices() if configured == "auto" else [_present(configured)]:
            found.setdefault(name, Device(name, _precision(name, precision), reason))
    return list(found.values())


def _best_devices() -> list[tuple[str, str]]:
    """Names of the devices that ``auto`` selects, and the reasons."""
    if torch.cuda.is_available():
        cards = range(torch.cuda.device_count())
        return [(f"cuda:{card}", f"auto: CUDA is available ({torch.cuda.get_device_name(card)})") for card in cards]
    if torch.backends.mps.is_available():
        return [("mps", "auto: no CUDA device, MPS is available")]
    return [("cpu", "auto: neither CUDA nor MPS is available")]


def _present(configured: str) -> tuple[str, str]:
    """Name and reason of a configured device, which must exist."""
    kind, _, number = configured.partition(":")
    card = int(number or 0)
    cards = torch.cuda.device_count() if torch.cuda.is_available() else 0
    mps = torch.backends.mps.is_available()
    if not {"cpu": True, "mps": mps, "cuda": card < cards}[kind]:
        raise InputError(
            f"`device: {configured}` is configured, but not available: this machine has {cards} CUDA devices"
            f"{', and MPS' if mps else ''}. Configure an available device, or `auto` to take the best one "
            "(`device` in the defs.yaml, LANCE_PIPELINE_DEVICE, or the resource `gpu`)."
        )
    return f"cuda:{card}" if kind == "cuda" else kind, f"`device: {configured}` is configured"


def _precision(name: str, precision: str) -> Precision:
    cuda = name.startswith("cuda")
    match precision:
        case "auto":
            if not cuda:
                return "fp32"
            # torch.cuda.is_bf16_supported() is also true for older cards, which emulate it.
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
