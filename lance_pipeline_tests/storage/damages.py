"""Kinds of damage to files."""

from collections.abc import Callable
from pathlib import Path

import numpy as np


def flip(path: Path, seed: int = 0) -> None:
    """Flip one random bit."""
    data = bytearray(path.read_bytes())
    place = int(np.random.default_rng(seed).integers(8 * len(data)))
    data[place // 8] ^= 1 << place % 8
    path.write_bytes(data)


def cut(path: Path) -> None:
    """Remove the second half."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def zero(path: Path) -> None:
    """Overwrite all bytes with zeros."""
    path.write_bytes(bytes(path.stat().st_size))


def zero_sector(path: Path) -> None:
    """Overwrite 512 bytes in the middle with zeros."""
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 512] = bytes(len(data[middle : middle + 512]))
    path.write_bytes(data)


def delete(path: Path) -> None:
    """Delete the file."""
    path.unlink()


DAMAGES: dict[str, Callable[[Path], None]] = {
    "flip": flip, "cut": cut, "zero": zero, "zero_sector": zero_sector, "delete": delete,
}  # fmt: skip
