"""One command turns an unknown folder of images into a dataset."""

import re
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import yaml

from lance_pipeline_tests.conftest import PROJECT, new_shell
from lance_pipeline_tests.image_folders import write_image_folder
from lance_pipeline_tests.small_project import write_small_project

Command = Callable[..., "CompletedProcess[str]"]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    write_small_project(root)
    return root


@pytest.fixture
def command(project: Path, tmp_path: Path) -> Command:
    shell = new_shell(project, tmp_path / "data", {"PYTHONPATH": f"{PROJECT}:{project}"})

    def run(*words: str) -> "CompletedProcess[str]":
        return shell.run("lance_pipeline", *words, "-m", "small.definitions")

    return run


def written(project: Path, name: str) -> dict[str, object]:
    return yaml.safe_load((project / "small" / "defs" / name / "defs.yaml").read_text())["attributes"]


def test_a_folder_of_classes_is_a_model_two_commands_later(project: Path, command: Command, tmp_path: Path):
    folder = tmp_path / "meine Bilder"
    write_image_folder(folder, {"": {"Gänse": 40, "dog rose": 40}}, size=(60, 50))
    (folder / "Gänse" / "notes.txt").write_text("no image")
    (folder / "dog rose" / "broken.png").write_bytes(b"\x89PNG")
    made = command("new", "bilder", str(folder), "recipe.epochs=1", "recipe.weights=none", "image_size=32")
    assert made.returncode == 0, made.stderr
    assert "lance-pipeline run bilder -m small.definitions" in made.stdout
    assert written(project, "bilder") == {
        "source": {"folder": str(folder)},
        "splits": {"fractions": {"train": 0.7, "val": 0.15, "test": 0.15}},
        "image_size": 32,
        "recipe": {"epochs": 1, "weights": "none"},
    }
    ran = command("run", "bilder")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    [page] = set(re.findall(r"/reports/(bilder/metrics_val/\S+\.html)", ran.stdout))
    assert "Most confident mistakes" in (tmp_path / "data" / "reports" / page).read_text()


@pytest.mark.parametrize(("side", "image_size"), [(20, 32), (60, 64), (200, 128)])
def test_the_size_goes_by_the_images(project: Path, command: Command, tmp_path: Path, side: int, image_size: int):
    write_image_folder(tmp_path / "raw", {"": {"a": 3, "b": 3}}, size=(side + 30, side))
    assert command("new", f"sized{side}", str(tmp_path / "raw")).returncode == 0
    assert written(project, f"sized{side}")["image_size"] == image_size


def test_folders_of_splits_are_taken_as_they_are(project: Path, command: Command, tmp_path: Path):
    counts = {"a": 2, "b": 2}
    write_image_folder(tmp_path / "raw", dict.fromkeys(("Train", "validation", "test"), counts))
    assert command("new", "split", str(tmp_path / "raw")).returncode == 0
    assert written(project, "split")["splits"] == {"train": "Train", "val": "validation"}
    assert command("new", "drawn", str(tmp_path / "raw"), "--draw").returncode == 0
    fractions = {"train": 0.7, "val": 0.15, "test": 0.15, "pool": ["Train", "validation", "test"]}
    assert written(project, "drawn")["splits"] == {"fractions": fractions}


@pytest.mark.parametrize(
    ("name", "words", "said"),
    [
        ("my-flowers", (), "my-flowers"),
        ("flowers", (), "already"),
        ("incomplete", (), "--draw"),
        ("misspelt", ("recipe.epoch=3",), "recipe.epochs"),
        ("wrong", ("recipe.epochs=none", "--draw"), "recipe.epochs"),
        ("searched", ("recipe.mixup=0,0.2", "--draw"), "lance-pipeline try"),
    ],
)
def test_what_cannot_be_is_said_and_nothing_is_written(
    project: Path, command: Command, tmp_path: Path, name: str, words: tuple[str, ...], said: str
):
    write_image_folder(tmp_path / "raw", {split: {"a": 2, "b": 2} for split in ("train", "test")})
    before = sorted(project.rglob("*.yaml"))
    ended = command("new", name, str(tmp_path / "raw"), *words)
    assert ended.returncode != 0
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr
    assert sorted(project.rglob("*.yaml")) == before


@pytest.mark.parametrize("content", ["nothing", "files", "a template", "one class", "train without classes"])
def test_folders_without_classes(project: Path, command: Command, tmp_path: Path, content: str):
    folder = tmp_path / ("{{ env.HOME }}" if content == "a template" else "raw")
    if content == "one class":
        write_image_folder(folder, {"": {"the only one": 3}})
    elif content == "train without classes":
        write_image_folder(folder, {split: {"a": 2, "b": 2} for split in ("val", "test")})
        (folder / "train").mkdir()
    elif content != "nothing":
        folder.mkdir()
        (folder / "1.png").write_bytes(b"")
    ended = command("new", "empty", str(folder))
    assert ended.returncode != 0
    assert str(folder) in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (project / "small" / "defs" / "empty").exists()
