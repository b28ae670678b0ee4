"""A training that is killed, terminated or interrupted in a real shell, then materialized again."""

import re

import pytest

from lance_pipeline_tests.browser.launcher import await_condition
from lance_pipeline_tests.orchestration.trainings import EPOCHS, Project, end, read_until, training_project


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with splits and one model from an uninterrupted training."""
    project = training_project(tmp_path_factory.mktemp("project"))
    project.materialize("resnet34")
    return project


@pytest.fixture(scope="module")
def expected(project: Project) -> tuple[str, dict[str, list[tuple[int, float]]]]:
    """The digest of that model's weights, and its metrics."""
    model = project.model()
    return model.sha256, project.series(model.mlflow_run_id)


WAYS = [
    "SIGKILL to the group",
    "SIGKILL to the parent",
    "SIGTERM to the group",
    "SIGTERM to the parent",
    "SIGINT to the group",
]


@pytest.mark.parametrize("how", WAYS)
def test_a_training_that_was_ended_goes_on(project: Project, expected, how: str):
    process = project.start("resnet34")
    read_until(process, r"Epoch 2/4:")
    project.wait_for_checkpoint()
    told = end(process, how)
    if "SIGKILL" not in how:
        assert not re.search(r"Traceback|Stack Trace|SIGKILL", told), told
        command = "dagster asset materialize -m small.definitions --select flowers/resnet34"
        line = rf"Stopped\. Saved after epoch (\d) of 4.*\. To resume: {command}"
        assert re.match(f"{line}$", told.splitlines()[-1]), told
    assert project.processes() == set()
    # A killed process cannot report its end.
    assert project.mlflow_statuses()[0] == ("RUNNING" if how == "SIGKILL to the group" else "KILLED")

    output = project.materialize("resnet34")
    assert "Resuming training" in output
    assert "Epoch 1/4" not in output
    model = project.model()
    assert (model.sha256, project.series(model.mlflow_run_id)) == expected
    assert set(project.mlflow_statuses()) == {"FINISHED"}
    assert project.dagster_statuses()[:2] == ["SUCCESS", "FAILURE" if "SIGKILL" in how else "CANCELED"]


def test_in_place_of_a_damaged_checkpoint_the_one_before_it_is_used(project: Project, expected):
    process = project.start("resnet34", config='{"ops": {"flowers__resnet34": {"config": {"fresh": true}}}}')
    read_until(process, r"Epoch 3/4:")
    await_condition(lambda: any(project.data.glob("checkpoints/flowers/*/previous.pt")), 60, "a second checkpoint")
    end(process, "SIGKILL to the group")
    (path,) = project.data.glob("checkpoints/flowers/*/checkpoint.pt")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)

    output = project.materialize("resnet34")
    assert f"The checkpoint {path} is damaged" in output
    assert "Resuming training" in output
    assert "Epoch 1/4" not in output
    assert project.model().sha256 == expected[0]


def test_what_makes_a_training_begin_anew_is_told(project: Project, expected):
    assert "Starting from scratch: the last training has ended" in project.materialize("resnet34")
    process = project.start("resnet34")
    read_until(process, r"Epoch 1/4:")
    project.wait_for_checkpoint()
    end(process, "SIGKILL to the group")

    project.defs.write_text(project.defs.read_text().replace(f"epochs: {EPOCHS}", "epochs: 1"))
    assert "Starting from scratch: recipe.epochs was 4 and is 1" in project.materialize("resnet34")
    assert project.mlflow_statuses()[:2] == ["FINISHED", "KILLED"]

    # Back at the old recipe, the interrupted training can still resume.
    project.defs.write_text(project.defs.read_text().replace("epochs: 1", f"epochs: {EPOCHS}"))
    assert "Resuming training" in project.materialize("resnet34")
    assert project.model().sha256 == expected[0]
    assert project.mlflow_statuses()[:2] == ["FINISHED", "FINISHED"]
    # The other training still counts as ended, although it was not the last one to end.
    project.defs.write_text(project.defs.read_text().replace(f"epochs: {EPOCHS}", "epochs: 1"))
    assert "Starting from scratch: the last training has ended" in project.materialize("resnet34")
    fresh = '{"ops": {"flowers__resnet34": {"config": {"fresh": true}}}}'
    assert "Starting from scratch: `fresh` is set" in project.materialize("resnet34", config=fresh)
