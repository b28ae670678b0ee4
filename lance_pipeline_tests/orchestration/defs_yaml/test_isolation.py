"""A broken ``defs.yaml`` fails on its own, and never silently."""

import itertools
import logging
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest

from lance_pipeline.orchestration.defs_yaml.isolation import load_datasets
from lance_pipeline_tests.conftest import PROJECT, Shell

GOOD = "type: lance_pipeline.ImageClassifier\nattributes:\n  source: {sample: digits}\n"
_numbers = itertools.count()

Project = Callable[[dict[str, str | bytes]], Path]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Write a new package with these files in ``defs``; returns the package's folder."""

    def write(files: dict[str, str | bytes]) -> Path:
        # Python imports a package of a given name only once.
        name = f"project{next(_numbers)}"
        package = tmp_path / name
        (tmp_path / "pyproject.toml").write_text(
            f'[tool.dg]\ndirectory_type = "project"\n[tool.dg.project]\nroot_module = "{name}"\n'
        )
        given = {
            "../__init__.py": "",
            "../definitions.py": "from pathlib import Path\nimport dagster as dg\n"
            "from lance_pipeline.orchestration.defs_yaml.isolation import load_datasets\n\n"
            "@dg.definitions\ndef defs():\n"
            "    return load_datasets(Path(__file__).parent)\n",
            "__init__.py": "",
            "resources.py": (PROJECT / "lance_pipeline" / "defs" / "resources.py").read_text(),
        }
        for path, content in {**given, **files}.items():
            file = package / "defs" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content if isinstance(content, bytes) else content.encode())
        monkeypatch.syspath_prepend(str(tmp_path))
        return package

    return write


def datasets(definitions: dg.Definitions) -> set[str]:
    return {spec.key.path[0] for spec in definitions.resolve_all_asset_specs()}


def materialized(definitions: dg.Definitions, group: str) -> dg.ExecuteInProcessResult:
    with dg.DagsterInstance.ephemeral() as instance:
        return definitions.resolve_implicit_global_asset_job_def().execute_in_process(
            instance=instance,
            asset_selection=[spec.key for spec in definitions.resolve_all_asset_specs() if spec.group_name == group],
            raise_on_error=False,
        )


def failure(result: dg.ExecuteInProcessResult) -> str:
    (event,) = [event for event in result.all_events if event.event_type == dg.DagsterEventType.STEP_FAILURE]
    data = event.step_failure_data.user_failure_data
    return data.description or "" if data else ""


BROKEN: dict[str, tuple[str | bytes, str]] = {
    "a wrong value": (GOOD + "  image_size: large\n", "attributes.image_size"),
    "an unknown key": (GOOD + "  epochs: 3\n", "epochs"),
    "no YAML": (GOOD + "  recipe: {epochs: 3\n", "flowers/defs.yaml"),
    "no text": (b"\x00\xff\xfe", "flowers/defs.yaml"),
    "empty": ("", "flowers/defs.yaml"),
    "another component": ("type: lance_pipeline.Nothing\n", "Nothing"),
    "a key beside the attributes": (GOOD + "nothing: 1\n", "nothing"),
    "a template that fails": (GOOD + "  description: '{{ 1 / 0 }}'\n", "division by zero"),
    "a template of nothing": (GOOD + "  description: '{{ nothing }}'\n", "nothing"),
}


@pytest.mark.parametrize(("content", "named"), BROKEN.values(), ids=BROKEN)
def test_a_broken_data_set_fails_alone(
    project: Project, caplog: pytest.LogCaptureFixture, content: str | bytes, named: str
):
    package = project({"digits/defs.yaml": GOOD, "flowers/defs.yaml": content})
    with caplog.at_level(logging.ERROR):
        definitions = load_datasets(package)
    assert datasets(definitions) == {"digits", "flowers"}
    assert {job.name for job in definitions.resolve_all_job_defs()} >= {"maintenance"}
    dg.Definitions.validate_loadable(definitions)
    assert named in caplog.text
    [asset] = [spec for spec in definitions.resolve_all_asset_specs() if spec.group_name == "flowers"]
    assert named in (asset.description or "")
    result = materialized(definitions, "flowers")
    assert not result.success
    assert named in failure(result)
    assert failure(result).splitlines() == (asset.description or "").split("\n\n")


def test_two_data_sets_of_one_name_leave_one(project: Project, caplog: pytest.LogCaptureFixture):
    package = project({"digits/defs.yaml": GOOD, "flowers/defs.yaml": GOOD + "  name: digits\n"})
    definitions = load_datasets(package)
    assert datasets(definitions) == {"digits", "flowers"}
    dg.Definitions.validate_loadable(definitions)
    told = failure(materialized(definitions, "flowers"))
    assert "flowers/defs.yaml:4: `attributes.name`" in told
    assert "digits/defs.yaml" in told


def test_folders_of_one_name_are_not_passed_over_in_silence(project: Project, caplog: pytest.LogCaptureFixture):
    package = project(
        {"a/flowers/defs.yaml": GOOD + "  name: one\n", "b/flowers/defs.yaml": "type: x", "digits/defs.yaml": GOOD}
    )
    definitions = load_datasets(package)
    assert datasets(definitions) == {"digits", "flowers", "flowers_broken"}
    assert "another folder" in failure(materialized(definitions, "flowers"))


@pytest.mark.parametrize(
    "files",
    [
        {"digits/defs.yaml": GOOD, "defs.yaml": "type: x"},
        {"digits/defs.yaml": GOOD, "resources.py": "1 / 0"},
        {"digits/defs.yaml": GOOD, "flowers/defs.yaml": "type: x", "resources.py": "1 / 0"},
    ],
    ids=["the folder of all", "shared code", "shared code too"],
)
def test_what_no_data_set_can_do_without_fails_all(project: Project, files: dict[str, str | bytes]):
    with pytest.raises(Exception, match=r"defs/defs\.yaml|resources\.py|division by zero"):
        load_datasets(project(files))


def test_the_command_line_shows_the_error(project: Project, shell: Shell):
    package = project({"digits/defs.yaml": GOOD, "flowers/defs.yaml": GOOD + "  recipe: {epochs: three}\n"})
    inside = Shell(package.parent, shell.data)
    command = ("dagster", "asset", "materialize", "-m", f"{package.name}.definitions", "--select")
    finished = inside.run(*command, "group:flowers")
    assert finished.returncode != 0
    output = finished.stdout + finished.stderr
    assert "attributes.recipe.epochs" in output
    assert "flowers/defs.yaml:4" in output
    assert "digits__" not in output


@pytest.mark.parametrize("others", [{}, {"digits/defs.yaml": GOOD}], ids=["the only dataset", "one of two"])
def test_what_stands_under_an_unknown_key_is_not_quoted(project: Project, shell: Shell, others: dict[str, str | bytes]):
    wrong = "  pasword: letmein1\n  tracking: {user: letmein2}\n  tracking_uri: http://u:letmein3@host\n"
    package = project({"flowers/defs.yaml": GOOD + wrong, **others})
    inside = Shell(package.parent, shell.data)
    command = ("dagster", "asset", "materialize", "-m", f"{package.name}.definitions", "--select")
    finished = inside.run(*command, "group:flowers")
    output = finished.stdout + finished.stderr
    assert all(key in output for key in ("attributes.pasword", "attributes.tracking", "attributes.tracking_uri"))
    assert "letmein" not in output
    specs = load_datasets(package).resolve_all_asset_specs()
    assert "letmein" not in str([spec.description for spec in specs])


@pytest.mark.parametrize(
    ("content", "line", "meant"),
    [
        (GOOD + "  recipe: {epoch: 3}\n", "4: `attributes.recipe.epoch`", "`epochs`?"),
        (GOOD + "  image_size: 32\n  image_size: 64\n", "5: `attributes.image_size`", "line 4"),
        ("", "1: ", "type: lance_pipeline.ImageClassifier"),
    ],
    ids=["a misspelt key", "a key twice", "an empty file"],
)
def test_dagsters_own_checks_fail_with_the_same_line(
    project: Project, shell: Shell, content: str, line: str, meant: str
):
    package = project({"digits/defs.yaml": GOOD, "flowers/defs.yaml": content})
    inside = Shell(package.parent, shell.data)
    for command in (
        ("dagster_dg_cli.cli", "check", "yaml"),
        ("dagster", "definitions", "validate", "-m", f"{package.name}.definitions"),
    ):
        finished = inside.run(*command)
        assert finished.returncode == 1
        output = finished.stdout + finished.stderr
        [told] = [one for one in output.splitlines() if "flowers/defs.yaml:" in one]
        assert f"flowers/defs.yaml:{line}" in told
        assert meant in told
        assert len(output.splitlines()) < 30


def test_the_only_data_set_may_be_broken(project: Project):
    definitions = load_datasets(project({"flowers/defs.yaml": GOOD + "  image_size: large\n"}))
    assert {spec.key.to_user_string() for spec in definitions.resolve_all_asset_specs()} == {"flowers/broken"}


def test_what_lies_below_a_broken_folder_is_not_lost(project: Project):
    files: dict[str, str | bytes] = {
        "plants/defs.yaml": "type: x",
        "plants/trees/defs.yaml": GOOD,
        "digits/defs.yaml": GOOD,
    }
    definitions = load_datasets(project(files))
    assert datasets(definitions) == {"digits", "plants", "trees"}
    assert "plants" in failure(materialized(definitions, "trees"))


def test_run_names_the_mistake_and_starts_nothing(project: Project, shell: Shell):
    package = project({"digits/defs.yaml": GOOD, "flowers/defs.yaml": GOOD + "  imagesize: 3\n"})
    inside = Shell(package.parent, shell.data)
    finished = inside.run("lance_pipeline", "run", "flowers", "-m", f"{package.name}.definitions")
    assert finished.returncode == 1
    assert "flowers/defs.yaml:4: `attributes.imagesize`" in finished.stderr
    assert not (shell.data / "dagster" / "history").exists()
