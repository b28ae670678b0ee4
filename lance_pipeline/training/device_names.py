"""Parsing the devices in a setting, without importing torch."""

import re
from collections.abc import Sequence

from lance_pipeline.errors import InputError

_KNOWN = re.compile(r"auto|cpu|mps|cuda(:[0-9]+)?")


def device_names(devices: str | Sequence[str]) -> list[str]:
    """The devices that a setting names, the preferred one first.

    Args:
        devices: ``auto``, ``cpu``, ``mps``, ``cuda`` or ``cuda:<number>``; several of them in a list, or in a
            comma-separated string.

    Raises:
        InputError: a name is unknown, or there is none.
    """
    names = [name.strip() for name in (devices.split(",") if isinstance(devices, str) else devices)]
    for name in names or [""]:
        if not _KNOWN.fullmatch(name):
            raise InputError(
                f"`device: {name}` is not known. Expected auto, cpu, mps, cuda or cuda:<number>, or several of them "
                "with commas between them."
            )
    return names
