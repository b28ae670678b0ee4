"""The resource `gpu`: device, precision, and exclusive use by one training at a time."""

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

from lance_pipeline.errors import InputError, Stopped
from lance_pipeline.orchestration.resources import (
    DEVICE_VARIABLE,
    EXCLUSIVE_VARIABLE,
    THREADS_VARIABLE,
    default_resources,
)
from lance_pipeline.orchestration.runtime.gpu import GpuResource

# An asset that trains on the CPU, materialized in a separate process.
RUN = """
import dagster as dg
from lance_pipeline.orchestration.runtime.gpu import GpuResource

@dg.asset
def resnet34(context: dg.AssetExecutionContext, gpu: GpuResource):
    with gpu.hold("flowers/resnet34", context.run_id, on_wait=lambda text: print(text, flush=True)) as device:
        print("has", device.name, flush=True)

dg.materialize([resnet34], resources={"gpu": GpuResource(device="cpu")})
"""


@pytest.fixture(autouse=True)
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A separate runtime folder, so that these tests and their processes see no other locks."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


def unasked(text: str) -> None:
    raise AssertionError(text)


def test_a_run_waits_for_the_device_and_then_trains():
    with GpuResource(device="cpu").hold("digits/resnet34", "1a2b3c4d-5e6f", on_wait=unasked):
        process = subprocess.Popen(
            [sys.executable, "-c", RUN],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        waiting = process.stdout.readline()
    assert f"digits/resnet34 (run 1a2b3c4d, process {os.getpid()}, since " in waiting
    assert process.communicate(timeout=60)[0] == "has cpu\n"
    assert process.returncode == 0


def test_the_device_is_picked_while_somebody_trains_on_it():
    gpu = GpuResource(device="cpu")
    with gpu.hold("digits/resnet34", on_wait=unasked) as held:
        assert gpu.pick() == held
    assert (held.name, held.precision, held.reason) == ("cpu", "fp32", "`device: cpu` is configured")


def test_waiting_ends_when_it_shall():
    gpu, told = GpuResource(device="cpu"), []
    with (
        gpu.hold("digits/resnet34", on_wait=unasked),
        pytest.raises(Stopped, match="SIGTERM"),
        gpu.hold("flowers/resnet34", on_wait=told.append, stop=lambda: "SIGTERM"),
    ):
        raise AssertionError
    assert len(told) == 1


def test_the_environment_names_several(monkeypatch):
    monkeypatch.setenv(DEVICE_VARIABLE, "cpu, cuda:99")
    with pytest.raises(InputError, match="`device: cuda:99`"):
        default_resources()["gpu"].pick()


@pytest.mark.parametrize("devices", ["cpu", ["cpu"], "cpu, cpu"])
def test_a_dataset_has_its_own_device(devices):
    gpu = GpuResource(device="cuda:99")
    assert gpu.pick(devices=devices).name == "cpu"
    with gpu.hold("digits/resnet34", devices=devices, on_wait=unasked) as device:
        assert device.name == "cpu"


def test_a_precision_of_its_own():
    assert GpuResource(device="cpu", precision="bf16").pick(precision="fp32").precision == "fp32"
    gpu = GpuResource(device="cpu")
    with pytest.raises(InputError, match="`precision: fp16` does not go with device cpu"):
        gpu.pick(precision="fp16")
    with (
        pytest.raises(InputError, match="`precision: bf16` does not go with device cpu"),
        gpu.hold("digits/resnet34", precision="bf16", on_wait=unasked),
    ):
        raise AssertionError


def test_the_precision_of_the_resource_holds_when_none_is_given():
    with pytest.raises(InputError, match="`precision: bf16` does not go with device cpu"):
        GpuResource(device="cpu", precision="bf16").pick()


def test_without_exclusive_nothing_is_waited_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(EXCLUSIVE_VARIABLE, "false")
    shared = default_resources()["gpu"]
    with (
        GpuResource(device="cpu").hold("digits/resnet34", on_wait=unasked),
        shared.hold("flowers/resnet34", devices="cpu", on_wait=unasked) as one,
        shared.hold("meadow/resnet34", devices="cpu", on_wait=unasked) as other,
    ):
        assert one == other
    # A training with `exclusive` does not wait for one without it.
    with (
        shared.hold("flowers/resnet34", devices="cpu", on_wait=unasked),
        GpuResource(device="cpu").hold("digits/resnet34", on_wait=unasked),
    ):
        pass


def test_trainings_with_few_threads_share_the_cores(monkeypatch: pytest.MonkeyPatch):
    cores, before = len(os.sched_getaffinity(0)), torch.get_num_threads()
    gpu, told = GpuResource(device="cpu", threads=2), []
    with ExitStack() as stack:
        for number in range(max(cores // 2, 1)):
            device = stack.enter_context(gpu.hold(f"{number}/resnet34", on_wait=unasked))
            assert device.name == "cpu"
        assert torch.get_num_threads() == 2
        with (
            pytest.raises(Stopped),
            gpu.hold("flowers/resnet34", on_wait=told.append, stop=lambda: "no core is left"),
        ):
            raise AssertionError
        assert "0/resnet34" in told[0]
    assert torch.get_num_threads() == before


def test_more_threads_than_cores_are_one_training():
    gpu = GpuResource(device="cpu", threads=10_000)
    with (
        gpu.hold("digits/resnet34", on_wait=unasked),
        pytest.raises(Stopped),
        gpu.hold("flowers/resnet34", on_wait=lambda text: None, stop=lambda: "it waits"),
    ):
        raise AssertionError


@pytest.mark.parametrize(("variable", "value"), [(THREADS_VARIABLE, "many"), (EXCLUSIVE_VARIABLE, "maybe")])
def test_a_variable_without_a_fitting_value_is_named(monkeypatch: pytest.MonkeyPatch, variable: str, value: str):
    monkeypatch.setenv(variable, value)
    with pytest.raises(InputError, match=variable):
        default_resources()["gpu"].hold("digits/resnet34", devices="cpu", on_wait=unasked).__enter__()
