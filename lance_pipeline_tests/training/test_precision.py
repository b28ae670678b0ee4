"""Mixed precision: on CUDA, where trainings use it, and on the CPU, where it can be tested without a GPU."""

import math
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from lance_pipeline.errors import Stopped
from lance_pipeline.images import LanceSplit
from lance_pipeline.training.callbacks import TrainingCallbacks
from lance_pipeline.training.checkpoint import read_checkpoint
from lance_pipeline.training.device import Device, Precision
from lance_pipeline.training.learner import Learner
from lance_pipeline.training.loop import Trained
from lance_pipeline.training.recipe import Recipe
from lance_pipeline_tests.training.test_checkpoint import After, assert_equal, fit

LABELS = torch.tensor([0, 1] * 4)


def on(name: str, precision: Precision) -> Device:
    """A device that `choose_device` may reject: users get mixed precision on CUDA only."""
    return Device(name, precision, "for tests")


def cuda(*values: object) -> object:
    return pytest.param(*values, marks=pytest.mark.cuda)


@pytest.fixture(params=["cpu", cuda("cuda:0")])
def name(request: pytest.FixtureRequest) -> str:
    return request.param


# fp16 on the CPU takes a minute.
@pytest.fixture(
    scope="module",
    params=[on("cpu", "bf16"), *(cuda(on("cuda:0", precision)) for precision in ("fp32", "bf16", "fp16"))],
    ids=lambda device: f"{device.name}-{device.precision}",
)
def device(request: pytest.FixtureRequest) -> Device:
    return request.param


@pytest.fixture(scope="module")
def recipe(device: Device) -> Recipe:
    # The small stem, because oneDNN's bf16 gradients of one-pixel feature maps are sometimes NaN.
    epochs = 3 if device.name == "cpu" else 10
    return Recipe(epochs=epochs, batch_size=8, averaging=0.5, gradient_clip=1.0, label_smoothing=0.0, stem="small")


@dataclass
class Whole:
    """An uninterrupted training, with its losses and its checkpoint's folder."""

    trained: Trained
    losses: list[float]
    folder: Path


@pytest.fixture(scope="module")
def whole(splits: dict[str, LanceSplit], recipe: Recipe, device: Device, tmp_path_factory) -> Whole:
    folder, losses = tmp_path_factory.mktemp("whole"), []
    callbacks = TrainingCallbacks(on_step=lambda step: losses.append(step.loss.item()))
    return Whole(fit(splits, folder, recipe, callbacks=callbacks, device=device), losses, folder)


def scaler_in(folder: Path) -> dict[str, float]:
    found = read_checkpoint(folder)
    assert found is not None
    assert found.state is not None
    return found.state["learner"]["scaler"]


def learner(name: str, precision: Precision) -> Learner:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 5), nn.Linear(5, 2))
    recipe = Recipe(epochs=1, schedule="constant", learning_rate=0.1)
    return Learner(model, recipe, on(name, precision), steps=10)


def test_the_forward_pass_is_in_the_devices_precision(device):
    one = torch.ones(2, 2, device=device.torch_device)
    with device.autocast():
        product = one @ one
    assert product.dtype == {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[device.precision]


def test_it_learns_and_keeps_its_weights_in_full_precision(whole, device):
    history, state = whole.trained.history, whole.trained.state
    assert all(math.isfinite(loss) for loss in whole.losses)
    assert history[-1].train_loss < history[0].train_loss / 2
    weights = [value for key, value in state.items() if "num_batches" not in key]
    assert {value.dtype for value in weights} == {torch.float32}
    assert all(torch.isfinite(value).all() for value in weights)
    assert ("scale" in scaler_in(whole.folder)) == (device.precision == "fp16")


def test_a_stopped_training_goes_on_as_if_nothing_had_been(splits, tmp_path, recipe, device, whole):
    # In the second epoch: the stop is requested after two batches and takes effect in the validation.
    with pytest.raises(Stopped):
        fit(splits, tmp_path, recipe, callbacks=TrainingCallbacks(stop=After(4)), device=device)
    assert_equal(fit(splits, tmp_path, recipe, device=device), whole.trained)
    assert scaler_in(tmp_path) == scaler_in(whole.folder)


def test_a_step_that_overflows_is_left_out_and_the_next_scaled_down(name):
    one, other = learner(name, "fp16"), learner(name, "fp16")
    before = {key: value.clone() for key, value in one.model.state_dict().items()}
    images = torch.full((8, 3, 4, 4), 1e4, device=name)
    assert math.isfinite(one.step(images, LABELS.to(name)).item())
    assert all(torch.equal(value, before[key]) for key, value in one.model.state_dict().items())
    scale = one.state_dict()["scaler"]["scale"]
    assert scale == other.state_dict()["scaler"]["scale"] / 2
    other.load_state_dict(one.state_dict())
    assert other.state_dict()["scaler"]["scale"] == scale
    other.step(images / 1e4, LABELS.to(name))
    assert not any(torch.equal(value, before[key]) for key, value in other.model.state_dict().items())


@pytest.mark.parametrize(("before", "now"), [("bf16", "fp16"), ("fp16", "bf16")])
def test_a_checkpoint_goes_on_in_another_precision(name, before, now):
    one, other = learner(name, before), learner(name, now)
    images = torch.linspace(-1, 1, 8 * 48, device=name).reshape(8, 3, 4, 4)
    one.step(images, LABELS.to(name))
    other.load_state_dict(one.state_dict())
    assert math.isfinite(other.step(images, LABELS.to(name)).item())
    assert other.is_finite()
