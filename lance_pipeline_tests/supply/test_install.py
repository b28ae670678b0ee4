"""`make` installs only the archives of the lock file."""

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from supply.lock import ROOT

BACKEND = """
import zipfile

def build_editable(folder, config_settings=None, metadata_directory=None):
    write(folder + "/project-1.0-py3-none-any.whl", "project")
    return "project-1.0-py3-none-any.whl"

def write(path, name):
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{name}.py", "")
        info = f"{name}-1.0.dist-info/"
        wheel.writestr(info + "METADATA", f"Metadata-Version: 2.1\\nName: {name}\\nVersion: 1.0\\n")
        wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(info + "RECORD", "")
"""


@pytest.fixture
def project(tmp_path) -> Path:
    """A project with our Makefile, which depends on one archive in a folder."""
    folder = tmp_path / "project"
    folder.mkdir()
    shutil.copy(ROOT / "Makefile", folder)
    (folder / "pyproject.toml").write_text('[build-system]\nrequires = []\nbuild-backend = "b"\nbackend-path = ["."]\n')
    (folder / "b.py").write_text(BACKEND)
    (folder / "archives").mkdir()
    scope: dict = {}
    exec(BACKEND, scope)
    scope["write"](str(folder / "archives" / "thing-1.0-py3-none-any.whl"), "thing")
    return folder


@pytest.fixture
def python(tmp_path) -> Path:
    """An interpreter like Debian's without the package python3-venv: its environments have no pip."""
    path = tmp_path / "python"
    path.write_text(f'#!/bin/sh\n[ "$*" = "-m venv .venv" ] && exit 1\nexec {sys.executable} "$@"\n')
    path.chmod(0o755)
    return path


def archive(project: Path) -> Path:
    (path,) = (project / "archives").iterdir()
    return path


def lock(project: Path) -> None:
    digest = hashlib.sha256(archive(project).read_bytes()).hexdigest()
    (project / "requirements.txt").write_text(f"thing==1.0 --hash=sha256:{digest}\n")


def install(project: Path, python: Path, **settings: str) -> subprocess.CompletedProcess:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "MAKE", "MFLAGS"))}
    environment = inherited | {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(project / "archives"),
        **settings,
    }
    command = ["make", f"PYTHON={python}", ".venv/.installed"]
    return subprocess.run(command, check=False, cwd=project, env=environment, capture_output=True, text=True)


def installed(project: Path) -> bool:
    return (project / ".venv" / ".installed").exists() or any(project.glob(".venv/lib/*/site-packages/thing*"))


def test_an_archive_with_another_hash_is_refused(project, python):
    lock(project)
    with zipfile.ZipFile(archive(project), "a") as wheel:
        wheel.writestr("thing_extra.py", "print('somebody else wrote this')")
    ended = install(project, python)
    assert ended.returncode != 0
    assert "HASHES" in ended.stderr
    assert not installed(project)

    lock(project)
    # Careful users set this variable; the project itself, which is installed from its folder, has no hash.
    ended = install(project, python, PIP_REQUIRE_HASHES="1")
    assert ended.returncode == 0, ended.stderr
    assert installed(project)


def test_a_lock_file_without_hashes_is_refused(project, python):
    (project / "requirements.txt").write_text("thing==1.0\n")
    ended = install(project, python)
    assert ended.returncode != 0
    assert "--require-hashes" in ended.stderr
    assert not installed(project)


def test_a_source_archive_is_refused_as_its_build_could_fetch_anything(project, python):
    archive(project).unlink()
    shutil.make_archive(str(project / "archives" / "thing-1.0"), "gztar", project, "b.py")
    lock(project)
    ended = install(project, python)
    assert ended.returncode != 0
    assert "thing==1.0" in ended.stderr
    assert not installed(project)
