import pytest
import torch

from lance_pipeline.errors import InputError
from lance_pipeline.training.device import candidate_devices, choose_device

no_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
no_accelerator = pytest.mark.skipif(
    torch.cuda.is_available() or torch.backends.mps.is_available(), reason="this machine has an accelerator"
)


def test_cpu_as_configured():
    device = choose_device("cpu")
    assert (device.name, device.precision, device.hardware) == ("cpu", "fp32", "cpu")
    assert "configured" in device.reason
    assert device.torch_device == torch.device("cpu")


@no_accelerator
def test_auto_takes_the_cpu_where_nothing_else_is_there():
    device = choose_device()
    assert (device.name, device.precision) == ("cpu", "fp32")
    assert "neither CUDA nor MPS" in device.reason


@pytest.mark.cuda
def test_auto_offers_every_card():
    devices = candidate_devices()
    assert [device.name for device in devices] == [f"cuda:{card}" for card in range(torch.cuda.device_count())]
    assert len({device.hardware for device in devices}) == len(devices)
    assert all("CUDA is available" in device.reason for device in devices)


@pytest.mark.cuda
def test_cuda_is_its_first_card():
    assert [device.name for device in candidate_devices("cuda, cuda:0, cuda:00")] == ["cuda:0"]


@no_accelerator
@pytest.mark.parametrize("devices", ["cpu,cpu", " cpu , auto", ["auto", "cpu"], ("cpu",)])
def test_a_device_named_twice_is_one(devices):
    assert [device.name for device in candidate_devices(devices)] == ["cpu"]


def test_fp32_autocast_changes_nothing():
    one = torch.ones(2, 2)
    with choose_device("cpu").autocast():
        assert (one @ one).dtype == torch.float32


@no_cuda
@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:7"])
def test_absent_cuda_device(device):
    with pytest.raises(InputError, match=f"`device: {device}`.*`auto`"):
        choose_device(device)


def test_a_card_too_many():
    with pytest.raises(InputError, match="`device: cuda:99`"):
        choose_device("cpu, cuda:99")


@pytest.mark.parametrize("device", ["tpu", "gpu", "CUDA", "cuda:", "cuda:-1", "cpu:0", ""])
def test_unknown_device(device):
    for devices in (device, f"cpu, {device}", ["cpu", device]):
        with pytest.raises(InputError, match=f"`device: {device}`.*auto, cpu, mps, cuda"):
            choose_device(devices)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_not_for_the_cpu(precision):
    with pytest.raises(InputError, match=f"`precision: {precision}`.*cpu.*auto or fp32"):
        choose_device("cpu", precision)


def test_unknown_precision():
    with pytest.raises(InputError, match="`precision: int8`"):
        choose_device("cpu", "int8")
