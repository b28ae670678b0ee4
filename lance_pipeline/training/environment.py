"""What a training's outcome may depend on besides its data and its settings."""

import importlib.metadata
import platform
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from lance_pipeline.training.device import Device
from lance_pipeline.version import __version__


def environment(device: Device) -> dict[str, Any]:
    """Device, code, interpreter, machine and packages, as JSON takes them.

    On the CPU, two trainings of the same identity (see ``training_identity``) in the same environment end with the same
    bits. ``cpu_capability`` is the instruction set that torch computes with, ``threads`` how many it uses.
    """
    cuda = torch.cuda.is_available()
    return {
        "device": device.name,
        "precision": device.precision,
        "code": _code_version(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda if cuda else None,
        "gpus": [torch.cuda.get_device_name(card) for card in range(torch.cuda.device_count())] if cuda else [],
        "packages": _packages(),
    }


def _packages() -> dict[str, str]:
    """The versions of all that is installed."""
    packages: dict[str, str] = {}
    for one in importlib.metadata.distributions():
        # The leftovers of an installation that was broken off have no name.
        with suppress(FileNotFoundError):
            if name := one.metadata["Name"]:
                # Of two the first is imported.
                packages.setdefault(name, one.version)
    return dict(sorted(packages.items()))


def _code_version() -> dict[str, Any]:
    """This package's version, and where it runs from a git checkout the commit, and whether that was changed."""
    version: dict[str, Any] = {"version": __version__, "commit": None, "changed": None}
    root = Path(__file__).parents[2]
    if shutil.which("git") and (root / ".git").exists():
        version["commit"] = _git(root, "rev-parse", "HEAD")
        changes = _git(root, "status", "--porcelain", "--", "lance_pipeline")
        version["changed"] = None if changes is None else bool(changes)
    return version


def _git(root: Path, *command: str) -> str | None:
    """What git prints; None where it does not like the folder, such as another user's."""
    finished = subprocess.run(["git", "-C", str(root), *command], capture_output=True, text=True, check=False)  # noqa: S603, S607
    return finished.stdout.strip() if finished.returncode == 0 else None
