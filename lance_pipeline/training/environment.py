"""The environment of a training, which may affect its outcome besides data and settings."""

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
    """Device, code, interpreter, machine and packages, as JSON-compatible values.

    On the CPU, two trainings with the same identity (see ``TrainingInputs``) in the same environment give bitwise equal
    results. ``cpu_capability`` is the instruction set that torch uses, ``threads`` its number of threads.
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
    """The versions of all installed packages."""
    packages: dict[str, str] = {}
    for one in importlib.metadata.distributions():
        # The remains of an aborted installation have no name.
        with suppress(FileNotFoundError):
            if name := one.metadata["Name"]:
                # If a package is installed twice, the first one is imported.
                packages.setdefault(name, one.version)
    return dict(sorted(packages.items()))


def _code_version() -> dict[str, Any]:
    """This package's version; in a git checkout also the commit, and whether there are uncommitted changes."""
    version: dict[str, Any] = {"version": __version__, "commit": None, "changed": None}
    root = Path(__file__).parents[2]
    if shutil.which("git") and (root / ".git").exists():
        version["commit"] = _git(root, "rev-parse", "HEAD")
        changes = _git(root, "status", "--porcelain", "--", "lance_pipeline")
        version["changed"] = None if changes is None else bool(changes)
    return version


def _git(root: Path, *command: str) -> str | None:
    """The output of git; None if git refuses the folder, for example because another user owns it."""
    finished = subprocess.run(["git", "-C", str(root), *command], capture_output=True, text=True, check=False)  # noqa: S603, S607
    return finished.stdout.strip() if finished.returncode == 0 else None
