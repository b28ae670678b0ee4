"""The real command line, run in a separate shell."""

import os
import re
import signal
import subprocess
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import dagster as dg
import lance
import pytest

from lance_pipeline_tests.browser.launcher import await_condition, free_port
from lance_pipeline_tests.conftest import PROJECT, Demo, Shell, new_shell
from lance_pipeline_tests.processes import processes_of
from lance_pipeline_tests.small_project import LEAK, write_small_project


def test_demo_reaches_its_accuracy(demo: Demo):
    (accuracy,) = re.findall(r"digits__metrics_test - test: accuracy ([\d.]+)%", demo.output)
    assert float(accuracy) >= 97


def test_training_shows_that_it_moves_and_how_long_it_takes(demo: Demo):
    line = r"Epoch (\d)/8: loss [\d.]+, val accuracy [\d.]+%, \d+ images/s, [\d.]+% waiting for data, \S+, (\S+) left"
    epochs = re.findall(line, demo.output)
    assert [number for number, _ in epochs] == list("12345678")
    assert epochs[-1][1] == "0:00:00"


def test_everything_is_below_the_data_folder(demo: Demo):
    assert not list(demo.shell.folder.iterdir())
    assert {path.name for path in demo.shell.data.iterdir()} == {
        "cache",
        "checkpoints",
        "raw",
        "lance",
        "models",
        "mlflow",
        "dagster",
        "reports",
    }


def test_the_terminal_shows_what_people_can_act_on(demo: Demo):
    lines = demo.output.splitlines()
    # These lines are printed before our code runs; `make demo` and `lance-pipeline run` hide them.
    ours = [line for line in lines if "SupersessionWarning" not in line and "callback(" not in line]
    assert all(re.search(r" - dagster - (INFO|WARNING) - ", line) for line in ours), demo.output


@pytest.mark.parametrize(("command", "missing"), [("run", "dataset"), ("new", "dataset, folder")])
def test_what_may_be_left_out_is_not_asked_for(shell: Shell, command: str, missing: str):
    shown = shell.run("lance_pipeline", command)
    assert shown.returncode == 2
    assert shown.stderr.endswith(f"required: {missing}\n")


COMMANDS = ("run", "summary", "reproduce", "verify", "databases", "disk", "ui")


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_has_an_example_that_is_one(shell: Shell, command: str):
    shown = shell.run("lance_pipeline", *command.split(), "--help")
    assert shown.returncode == 0
    examples = shown.stdout.partition("example")[2]
    assert f"lance-pipeline {command}".strip() in examples
    if not command:
        assert all(re.search(rf"^ +{one}\s", shown.stdout, re.MULTILINE) for one in COMMANDS)


def test_the_interface_prints_its_address_last(demo: Demo):
    port = free_port()
    output = demo.shell.folder.parent / "ui.txt"
    with output.open("w") as file:
        words = ("lance_pipeline", "ui", "--port", str(port))
        process = demo.shell.start(*words, stdout=file)
        try:
            await_condition(lambda: "Ctrl-C stops" in output.read_text(), 200, "the interface is there")
            for path in ("", "/mlflow/", "/nope"):
                urllib.request.urlopen(f"http://127.0.0.1:{port}{path}").read()
            # The daemon starts only now.
            time.sleep(3)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
    assert [line.strip() for line in output.read_text().splitlines() if line.strip()] == [
        f"http://127.0.0.1:{port}",
        "Dagster; MLflow is at /mlflow/, reports of checks at /reports/. Ctrl-C stops it.",
    ]


def test_summary_tells_what_came_of_it(demo: Demo):
    summary = demo.shell.run("lance_pipeline", "summary", "digits")
    assert summary.returncode == 0, summary.stderr
    for words in (
        "train 1257   val 270   test 270",
        "model.safetensors",
        "digits_test_predictions.lance",
        "/runs/",
        "make ui",
    ):
        assert words in summary.stdout


def test_one_asset_can_be_materialized_from_what_is_there(demo: Demo):
    predictions = str(demo.shell.data / "lance" / "digits_test_predictions.lance")
    before = lance.dataset(predictions).version
    finished = demo.shell.materialize('key:"digits/metrics_test"')
    assert finished.returncode == 0, finished.stderr
    assert lance.dataset(predictions).version == before + 1


def test_summary_of_what_was_never_made_says_what_to_run(shell: Shell):
    summary = shell.run("lance_pipeline", "summary", "digits")
    assert summary.returncode == 1
    assert "a dataset 'digits' was ever materialized" in summary.stderr
    # It must not suggest a group that may not exist.
    assert "group:" not in summary.stderr


@pytest.mark.parametrize("selection", ["group:digit", 'group:"dgits"', "group:digits_"])
def test_a_misspelt_group_materializes_nothing(shell: Shell, selection: str):
    finished = shell.materialize(selection)
    assert finished.returncode != 0
    output = finished.stdout + finished.stderr
    assert "Did you mean `group:digits" in output
    assert "cinic10" in output
    with shell.instance() as instance:
        (run,) = instance.get_runs()
        assert run.status == dg.DagsterRunStatus.FAILURE
        assert not instance.get_run_step_stats(run.run_id)
    assert not (shell.data / "lance").exists()


def test_a_summary_suggests_the_nearest_name_and_loads_nothing_for_it(demo: Demo):
    shell = replace(demo.shell, variables={**demo.shell.variables, "PYTHONPROFILEIMPORTTIME": "1"})
    summary = shell.run("lance_pipeline", "summary", "digit")
    assert summary.returncode == 1
    assert "Did you mean digits?" in summary.stderr
    lines = summary.stderr.splitlines()
    loaded = {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}
    assert "dagster" in loaded
    assert not loaded & {"torch", "mlflow", "lance", "pyarrow", "lance_pipeline.definitions"}


def test_sample_by_hand(shell: Shell):
    made = shell.run("lance_pipeline.sources.sample", "digits", "digits")
    assert made.returncode == 0, made.stderr
    assert len(list((shell.folder / "digits").glob("train/*/*.png"))) == 1257
    again = shell.run("lance_pipeline.sources.sample", "digits", "digits")
    assert again.returncode != 0
    assert "exists already" in again.stderr


def test_run_shows_a_line_for_each_thing_and_a_summary(tmp_path: Path):
    write_small_project(root := tmp_path / "project")
    shell = new_shell(root, tmp_path / "data", {"PYTHONPATH": f"{root}:{PROJECT}"})

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return shell.run("lance_pipeline", "run", *words, "-m", "small.definitions")

    one = run("flowers", "raw_images")
    assert one.returncode == 0, one.stdout + one.stderr
    assert not (shell.data / "models").exists()
    whole = run("flowers")
    assert whole.returncode == 0, whole.stdout + whole.stderr
    assert re.search(r"^resnet34: Epoch 2/2: loss", whole.stdout, re.MULTILINE)
    assert "model.safetensors" in whole.stdout
    assert not re.search(r"DEBUG|__ASSET_JOB|Warning|INFO", whole.stdout + whole.stderr)
    # A failing check appears once, with its count and an example.
    [leak] = re.findall("^WARNING lance_splits: train: leakage: (.*)", whole.stdout, re.MULTILINE)
    assert leak.startswith(f"images 1, share 8.3 %; the first: train/{LEAK['train']} and test/{LEAK['test']}")
    assert "WARNING lance_splits: val: few_images: classes 3, limit 10; the first: " in whole.stdout


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("begun", ["lance_pipeline run", "dagster asset materialize"])
def test_ctrl_c_before_anything_is_run_shows_no_stack_trace(shell: Shell, begun: str):
    process = shell.start("lance_pipeline", "run", "digits", "raw_images")
    await_condition(lambda: any(begun in command for command in processes_of(shell.data).values()), 60, begun)
    # Give Python itself time to start.
    time.sleep(1)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    # On a fast machine the run may already have started.
    assert process.returncode in (1, 130, -signal.SIGINT)
    assert "Traceback" not in output


def test_a_run_that_fails_says_why_and_of_no_other_step(tmp_path: Path):
    write_small_project(root := tmp_path / "project")
    (root / "images").rename(root / "pictures")
    shell = new_shell(root, tmp_path / "data", {"PYTHONPATH": f"{root}:{PROJECT}"})
    finished = shell.run("lance_pipeline", "run", "flowers", "-m", "small.definitions")
    assert finished.returncode == 1
    assert f"the folder {root}/images/flowers is missing" in finished.stdout.splitlines()[-2]
    assert not re.search("metrics_test|resnet34|Dependencies", finished.stdout)


def test_an_error_of_the_users_has_no_stack_trace(tmp_path: Path):
    write_small_project(root := tmp_path / "project")
    (root / "images").rename(root / "pictures")
    shell = new_shell(root, tmp_path / "data", {"PYTHONPATH": f"{root}:{PROJECT}"})
    selection = ("asset", "materialize", "-m", "small.definitions", "--select", "flowers/raw_images")
    finished = shell.run("dagster", *selection)
    assert finished.returncode == 1
    output = finished.stdout + finished.stderr
    assert f"the folder {root}/images/flowers is missing" in output
    assert not re.search("Traceback|Stack Trace", output)
    with shell.instance() as instance:
        [run] = instance.get_runs()
        [failure] = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
    assert "Stack Trace" in failure.get_dagster_event().step_failure_data.error_display_string


@pytest.mark.parametrize(
    ("words", "near"), [(["digit"], "digits"), (["digits", "resnet"], "resnet34"), (["digits", "metrics"], "metrics_")]
)
def test_run_refuses_what_is_not_there(shell: Shell, words: list[str], near: str):
    finished = shell.run("lance_pipeline", "run", *words)
    assert finished.returncode == 1
    assert f"Did you mean {near}" in finished.stderr
    assert not (shell.data / "dagster" / "history").exists()
