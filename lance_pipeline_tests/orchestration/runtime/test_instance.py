"""The folder of Dagster's instance: which one is used, created if missing, and named in errors."""

import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from lance_pipeline.errors import InputError
from lance_pipeline.orchestration.paths import dagster_home
from lance_pipeline.orchestration.runtime.instance import prepare_instance, use_env_file
from lance_pipeline_tests.conftest import PROJECT, Shell

HOME, DATA = "DAGSTER_HOME", "LANCE_PIPELINE_DATA"


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "parent" / "data"
    monkeypatch.setenv(DATA, str(folder))
    # Registers the variable, which the tested code sets, to be restored afterwards.
    monkeypatch.setenv(HOME, "")
    return folder


@pytest.mark.parametrize(("command", "home"), [("summary", "missing"), ("summary", ""), ("try --list", "missing")])
def test_commands_work_in_a_data_folder_that_is_not_there(shell: Shell, command: str, home: str):
    data = shell.data.parent / "new" / "data"
    fresh = Shell(shell.folder, data, {DATA: str(data), HOME: str(data / "dagster") if home else ""})
    finished = fresh.run("lance_pipeline", *command.split(), "digits")
    assert finished.stderr.count("\n") == 1
    assert "materialized" in finished.stderr
    assert (data / "dagster" / "dagster.yaml").read_bytes() == (PROJECT / "dagster.yaml").read_bytes()


def test_variables_are_those_of_dagsters_own_commands(shell: Shell):
    home = shell.data.parent / "other home"
    (shell.folder / ".env").write_text(f"{HOME}={home}\n")
    assert shell.run("lance_pipeline", "summary", "digits").returncode == 1
    assert (home / "dagster.yaml").exists()
    assert not (shell.data / "dagster" / "history").exists()


def test_the_instance_is_in_the_data_folder_by_default(data: Path):
    assert dagster_home() == data / "dagster"
    prepare_instance()
    assert os.environ[HOME] == str(data / "dagster")
    with dg.DagsterInstance.get() as instance:
        assert instance.root_directory == str(data / "dagster")
    assert data.stat().st_mode & 0o777 == 0o700


def test_a_home_is_expanded(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(HOME, "~/instance")
    prepare_instance()
    assert os.environ[HOME] == str(tmp_path / "instance")
    assert (tmp_path / "instance").is_dir()


@pytest.mark.parametrize("relative", ["data/dagster", "s3://bucket/dagster"])
def test_a_relative_path_is_refused(data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, relative: str):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(HOME, relative)
    with pytest.raises(InputError, match=HOME):
        prepare_instance()
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_way_is_named(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (file := tmp_path / "file").touch()
    (link := tmp_path / "link").symlink_to("nowhere")
    for there, variable in ((file, HOME), (link, HOME), (file, DATA)):
        for path in (there, there / "below"):
            monkeypatch.setenv(HOME, "")
            monkeypatch.setenv(variable, str(path))
            with pytest.raises(InputError, match=f"{there} is not a folder.*{variable}"):
                prepare_instance()


@pytest.mark.parametrize("mode", [0o555, 0])
def test_a_folder_of_somebody_elses_is_named(shell: Shell, mode: int):
    (parent := shell.data.parent / "parent").mkdir()
    parent.chmod(mode)
    # Root can write everywhere, unless it drops that capability.
    drop = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"] if os.getuid() == 0 else []
    command = [*drop, sys.executable, "-m", "lance_pipeline", "summary", "digits"]
    variables = {DATA: str(parent / "data"), HOME: ""}
    finished = subprocess.run(
        command, cwd=shell.folder, env=os.environ | variables, capture_output=True, text=True, check=False
    )
    assert f"cannot write to the data folder {parent}/data/dagster: Permission denied" in finished.stderr
    assert "Traceback" not in finished.stderr


def test_an_unreadable_env_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_bytes(b"X=\xff\n")
    with pytest.raises(InputError, match=f"{tmp_path}/.env"):
        use_env_file()
