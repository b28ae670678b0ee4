"""The machine that the figures were measured on."""

import os
import platform
import subprocess

import torch

from benchmarks.gpu.part import Figures, Job


def measure(job: Job, figures: Figures) -> None:
    """Card, driver, versions and cores."""
    del job
    cudnn = torch.backends.cudnn.version()
    figures.put(
        "machine",
        {
            "card": torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none",
            "driver": _driver(),
            "torch": str(torch.__version__),
            "cuda": torch.version.cuda or "none",
            "cudnn": str(cudnn) if cudnn else "none",
            "python": platform.python_version(),
            "cores": len(os.sched_getaffinity(0)),
        },
    )


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return "none"
    return done.stdout.strip().splitlines()[0]
