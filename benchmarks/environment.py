"""The virtual environment of the peers, which reuses packages of the project's environment."""

import os
import shutil
import subprocess
import sys
import sysconfig

PINS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "peers.txt")
# Packages that are compiled here, with the system libraries that they need.
_LIBRARIES = {"ffcv": ("opencv4", "libturbojpeg")}
_DEBIAN = {"ffcv": "libopencv-dev libturbojpeg0-dev pkg-config g++"}


class PeersError(RuntimeError):
    """Peers could not be installed; the message is the installer's last error."""


def make_environment(folder: str) -> str:
    """The interpreter of an environment in ``folder`` with the packages of peers.txt; rebuilt when that file changes.

    Packages such as torch are found in the project's environment, after the peers' own packages. Packages that must be
    compiled are left to ``add_compiled``.

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
    _install(python, *(f"{name}=={pin}" for name, pin in pinned_versions().items() if name not in _LIBRARIES))
    with open(note, "w") as file:
        file.write(wanted)
    return python


def add_compiled(folder: str, package: str) -> None:
    """Compile a package of peers.txt into the environment, unless it is installed.

    Raises:
        PeersError: the package cannot be compiled here.
    """
    wanted, note = f"{package}=={pinned_versions()[package]}", os.path.join(folder, f"compiled_{package}.txt")
    if _read(note) == wanted:
        return
    found = shutil.which("pkg-config") and subprocess.run(  # noqa: S603
        ["pkg-config", "--exists", *_LIBRARIES[package]],  # noqa: S607
        check=False,
    )
    if not found or found.returncode:
        raise PeersError(f"it is compiled here and needs the Debian packages {_DEBIAN[package]}")
    _install(os.path.join(folder, "bin", "python"), "--no-build-isolation", wanted)
    with open(note, "w") as file:
        file.write(wanted)


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


def _install(python: str, *what: str) -> None:
    _run("pip", "--python", python, "install", "--quiet", "--disable-pip-version-check", "--no-deps", *what)


def _run(*module_and_arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", *module_and_arguments], capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no output"]
        errors = [line for line in lines if line.lower().startswith("error")]
        raise PeersError((errors or lines)[-1])
