"""Retraining and maintenance: their jobs and schedules."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import dagster as dg
import lance
import numpy as np
import pytest
import yaml
from dagster._core.definitions.selector import InstigatorSelector
from dagster._utils.schedules import cron_string_iterator

from lance_pipeline.definitions import defs
from lance_pipeline.errors import InputError
from lance_pipeline.ingest.maintenance import keep_version
from lance_pipeline.orchestration.records import Split
from lance_pipeline_tests.conftest import PROJECT, Shell
from lance_pipeline_tests.image_folders import class_image
from lance_pipeline_tests.orchestration.conftest import Graph

CODE_LOCATION = ("-m", "lance_pipeline.definitions")


def schedules_of(graph: Graph, of: str = "retrain") -> list[dg.ScheduleDefinition]:
    found = [one for one in graph.definitions.schedules or [] if isinstance(one, dg.ScheduleDefinition)]
    return [one for one in found if one.name == f"tiny_{of}_schedule"]


def test_no_schedule_unless_asked_for(graph: Graph):
    assert not schedules_of(graph)


@pytest.mark.parametrize(("enabled", "status"), [(False, "STOPPED"), (True, "RUNNING")])
def test_schedule_is_off_unless_enabled(graph: Graph, enabled: bool, status: str):
    graph.attributes["retrain"] = {"cron": "0 3 * * 1", "enabled": enabled}
    (schedule,) = schedules_of(graph)
    assert schedule.default_status.value == status


def test_tick_requests_one_run_of_the_whole_graph(graph: Graph):
    graph.attributes["retrain"] = {"cron": "0 3 * * 1", "timezone": "Europe/Berlin"}
    (schedule,) = schedules_of(graph)
    context = dg.build_schedule_context(
        instance=graph.instance,
        repository_def=graph.definitions.get_repository_def(),
        scheduled_execution_time=datetime(2026, 11, 23, 3, tzinfo=ZoneInfo("Europe/Berlin")),
    )
    requests = schedule.evaluate_tick(context).run_requests
    assert requests is not None
    assert len(requests) == 1
    job = graph.definitions.resolve_job_def("tiny_retrain")
    everything = {key for asset in graph.assets for key in asset.keys}
    assert job.asset_layer.executable_asset_keys == everything - {dg.AssetKey(["tiny", "maintenance"])}


def test_next_tick_is_in_the_schedules_time_zone(graph: Graph):
    graph.attributes["retrain"] = {"cron": "0 3 * * 1", "timezone": "Asia/Tokyo"}
    (schedule,) = schedules_of(graph)
    sunday = datetime(2026, 11, 22, tzinfo=UTC).timestamp()
    assert isinstance(schedule.cron_schedule, str)
    tick = next(cron_string_iterator(sunday, schedule.cron_schedule, schedule.execution_timezone))
    assert tick == datetime(2026, 11, 23, 3, tzinfo=ZoneInfo("Asia/Tokyo"))


def test_command_line_lists_starts_and_stops_the_schedule(shell: Shell):
    started = shell.run("dagster", "schedule", "start", *CODE_LOCATION, "digits_retrain_schedule")
    assert "Started" in started.stdout, started.stdout + started.stderr
    assert status_for_the_ui(shell) == "RUNNING"
    assert "[RUNNING]" in shell.run("dagster", "schedule", "list", *CODE_LOCATION).stdout
    stopped = shell.run("dagster", "schedule", "stop", *CODE_LOCATION, "digits_retrain_schedule")
    assert "Stopped" in stopped.stdout, stopped.stdout + stopped.stderr
    assert status_for_the_ui(shell) == "STOPPED"


def status_for_the_ui(shell: Shell) -> str:
    """The schedule's status as the UI and its daemon find it: by the code location's name in workspace.yaml."""
    workspace = yaml.safe_load((PROJECT / "workspace.yaml").read_text())
    (location,) = (entry["python_module"]["location_name"] for entry in workspace["load_from"])
    schedule = InstigatorSelector(
        location_name=location, repository_name="__repository__", name="digits_retrain_schedule"
    )
    with shell.instance() as instance:
        state = instance.get_instigator_state("", schedule.get_id())
        assert state is not None
        return state.status.value


def test_command_line_lists_the_job(shell: Shell):
    assert "digits_retrain" in shell.run("dagster", "job", "list", *CODE_LOCATION).stdout


def test_one_job_and_one_schedule_maintain_all_data_sets():
    definitions = defs()
    repository = definitions.get_repository_def()
    (schedule,) = (one for one in repository.schedule_defs if "maintenance" in one.name)
    assert schedule.name == "maintenance_schedule"
    assert schedule.default_status.name == "STOPPED"
    job = definitions.resolve_job_def("maintenance")
    keys = {dg.AssetKey([name, "maintenance"]) for name in ("digits", "cinic10")}
    assert set(job.asset_layer.selected_asset_keys) == keys
    assert [name for name in repository.job_names if "maintenance" in name] == ["maintenance"]
    retraining = definitions.resolve_job_def("digits_retrain")
    assert not keys & set(retraining.asset_layer.selected_asset_keys)


@pytest.mark.parametrize(("enabled", "status"), [(False, "STOPPED"), (True, "RUNNING")])
def test_a_data_set_may_be_maintained_at_a_time_of_its_own(graph: Graph, enabled: bool, status: str):
    graph.attributes["maintenance"] = {"cron": "0 4 * * 2", "timezone": "Europe/Berlin", "enabled": enabled}
    (schedule,) = schedules_of(graph, "maintenance")
    assert schedule.cron_schedule == "0 4 * * 2"
    assert schedule.default_status.name == status
    repository = graph.definitions.get_repository_def()
    job = repository.get_job(schedule.job_name)
    assert set(job.asset_layer.selected_asset_keys) == {dg.AssetKey(["tiny", "maintenance"])}


def test_no_data_set_has_the_name_of_the_common_group(graph: Graph):
    graph.attributes["name"] = "maintenance"
    with pytest.raises(InputError, match="`name`"):
        _ = graph.definitions


def test_maintenance_keeps_what_records_name_and_models_were_trained_on(graph: Graph):
    graph.attributes["maintenance"] = {"keep_days": 0}
    uri = str(graph.images.parent / "data" / "lance" / "tiny_train.lance")
    for number in range(4):
        class_image(0, np.random.default_rng(number)).save(graph.images / "train" / "cat" / f"new{number}.png")
        assert graph.materialize("raw_images", "lance_train", "lance_val", "lance_test").success
        if number == 1:
            keep_version(uri, 2, "trained.some-run")
    assert graph.record("lance_train", Split).data.version == 4
    result = graph.materialize("maintenance")
    assert result.success
    kept = {version["version"] for version in lance.dataset(uri).versions()}
    assert {2, 4} <= kept
    assert not {1, 3} & kept
    assert graph.materialize("lance_train").success
    tables = result.asset_materializations_for_node("tiny__maintenance")[0].metadata["tables"]
    assert isinstance(tables, dg.TableMetadataValue)
    by_name = {row.data["table"]: row.data for row in tables.records}
    assert str(by_name["tiny_train.lance"]["versions"]).startswith("4 → ")
    assert {"tiny_listing.lance", "tiny_val_rejected.lance"} <= by_name.keys()
