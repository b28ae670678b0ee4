"""The peers' own environment, which borrows what it can from the project's."""

import os
import shutil
import subprocess
import sys
import sysconfig

PINS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "peers.txt")


class PeersError(RuntimeError):
    """The peers could not be installed; the message is the installer's last line."""


def make_environment(folder: str) -> str:
    """The interpreter of an environment in ``folder`` with the packages of peers.txt; made anew when that has changed.

    Torch and whatever else the project has is found in the project's environment, after the peers' own packages.

    Raises:
        PeersError: the packages could not be installed.
    """
    python, note = os.path.join(folder, "bin", "python"), os.path.join(folder, "installed.txt")
    borrowed = sysconfig.get_path("purelib")
    wanted = f"{_read(PINS)}\n{borrowed}\n{sys.version}"
    if _read(note) == wanted:
        return python
    shutil.rmtree(folder, ignore_errors=True)
    _run("venv", "--without-pip", folder)
    library = f"python{sys.version_info.major}.{sys.version_info.minor}"
    with open(os.path.join(folder, "lib", library, "site-packages", "borrowed.pth"), "w") as file:
        file.write(borrowed)
    _run("pip", "--python", python, "install", "--quiet", "--disable-pip-version-check", "--no-deps", "-r", PINS)
    with open(note, "w") as file:
        file.write(wanted)
    return python


def pinned_versions() -> dict[str, str]:
    """The version of each package of peers.txt."""
    pins = [line.partition("==") for line in _read(PINS).splitlines() if "==" in line]
    return {name: version for name, _, version in pins}


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except FileNotFoundError:
        return ""


def _run(*module_and_arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", *module_and_arguments], capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise PeersError((done.stderr.strip().splitlines() or ["no output"])[-1])
