"""Properties that only a GPU shows: memory, image layout, bitwise equality. Mixed precision is in test_precision."""

import gc
import math
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from lance_pipeline.images import Augment, ImageLoader
from lance_pipeline.training.callbacks import TrainingCallbacks
from lance_pipeline.training.device import Device, Precision
from lance_pipeline.training.fit import fit_network
from lance_pipeline.training.inputs import TrainingInputs
from lance_pipeline.training.learner import Learner
from lance_pipeline.training.loop import Trained
from lance_pipeline.training.model import build_network
from lance_pipeline.training.recipe import Recipe
from lance_pipeline_tests.training.test_checkpoint import assert_equal


def fit(splits, recipe: Recipe, precision: Precision, size: int, name: str = "cuda:0", **callbacks) -> Trained:
    device = Device(name, precision, "for tests")
    inputs = TrainingInputs(splits["train"], splits["val"], recipe, size)
    trained, _ = fit_network(inputs, device, callbacks=TrainingCallbacks(**callbacks))
    return trained


@contextmanager
def memory(most: float) -> Iterator[None]:
    """Within the context, this process may use at most this many bytes of GPU memory."""
    _clear()
    torch.cuda.set_per_process_memory_fraction(most / torch.cuda.get_device_properties(0).total_memory)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def _clear() -> None:
    # An optimizer and its schedule refer to each other.
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()


def after_a_step(images: torch.Tensor, labels: torch.Tensor, told: list[str]) -> dict[str, torch.Tensor]:
    """Loss, gradients and weights after a step, without batch norm, whose statistics depend on the micro-batch."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 4096), nn.ReLU(), nn.Linear(4096, 2))
    recipe = Recipe(epochs=1, schedule="constant", learning_rate=0.1)
    learner = Learner(model, recipe, Device(str(images.device), "fp32", "for tests"), steps=10, log_line=told.append)
    learner.begin_epoch(0)
    found = {"loss": learner.step(images, labels).cpu()}
    for key, value in model.named_parameters():
        assert value.grad is not None
        found |= {key: value.detach().cpu(), f"gradient of {key}": value.grad.cpu()}
    return found


@pytest.mark.cuda
def test_a_batch_that_the_card_does_not_hold_is_learned_in_parts():
    generator = torch.Generator("cuda:0").manual_seed(0)
    images = torch.randn(1 << 16, 3, 8, 8, device="cuda:0", generator=generator)
    labels = (images.mean(dim=(1, 2, 3)) > 0).long()
    told: list[str] = []
    _clear()
    whole = after_a_step(images, labels, told)
    peak = torch.cuda.max_memory_allocated()
    assert told == []
    with memory(0.7 * peak):
        parts = after_a_step(images, labels, told)
    assert "ran out of memory: splitting each batch into 2 micro-batches" in told[0]
    for key, value in whole.items():
        assert (parts[key] - value).norm() <= 1e-3 * value.norm(), key


@pytest.mark.cuda
def test_a_training_whose_batches_the_card_does_not_hold(splits):
    recipe, told = Recipe(epochs=2, batch_size=16), []
    _clear()
    fit(splits, recipe, "bf16", 512)
    peak = torch.cuda.max_memory_allocated()
    # Less than the activations alone need: without its preferred workspace, cuDNN selects other algorithms.
    with memory(0.5 * peak):
        trained = fit(splits, recipe, "bf16", 512, log_line=told.append)
    assert any("ran out of memory" in text for text in told)
    assert all(math.isfinite(epoch.train_loss) for epoch in trained.history)
    assert all(torch.isfinite(value).all() for value in trained.state.values())


@pytest.mark.cuda
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_the_same_seed_gives_bitwise_equal_weights(splits, precision, monkeypatch):
    # A user may have set this for speed.
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    recipe = Recipe(epochs=4, batch_size=4, mixup=0.2, cutmix=1.0, randaugment=5, averaging=0.9)
    one, other = (fit(splits, recipe, precision, 64) for _ in range(2))
    assert_equal(one, other)


@pytest.mark.cuda
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("more", [{}, {"mixup": 0.2, "gradient_clip": 1.0}, {"freeze_epochs": 2}], ids=str)
def test_a_recorded_step_computes_what_the_step_does(splits, precision, more):
    recipes = [Recipe(epochs=6, batch_size=3, step=step, **more) for step in ("eager", "graph")]
    one, other = (fit(splits, recipe, precision, 64) for recipe in recipes)
    assert_equal(one, other)


@pytest.mark.cuda
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_no_step_waits_for_the_card(precision):
    torch.manual_seed(0)
    model, device = build_network("resnet34", 3, "small"), Device("cuda:0", precision, "for tests")
    learner = Learner(model, Recipe(batch_size=8, gradient_clip=1.0), device, steps=20)
    learner.begin_epoch(0)
    images, labels = torch.randn(8, 3, 32, 32, device="cuda:0"), torch.arange(8, device="cuda:0") % 3
    # The first steps select algorithms and record the step, which synchronizes with the GPU.
    for _ in range(5):
        learner.step(images, labels)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(10):
            learner.step(images, labels)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", ["cpu", pytest.param("cuda:0", marks=pytest.mark.cuda)])
@pytest.mark.parametrize("more", [{}, {"mixup": 0.2}, {"cutmix": 1.0}, {"randaugment": 5}])
def test_images_are_channels_last_in_all_layers(splits, name, more):
    seen: list[bool] = []

    def look(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if isinstance(module, nn.Conv2d):
            seen.extend(one.is_contiguous(memory_format=torch.channels_last) for one in (*inputs, module.weight))

    hook = nn.modules.module.register_module_forward_pre_hook(look)
    try:
        fit(splits, Recipe(epochs=1, batch_size=8, batches_per_epoch=1, **more), "fp32", 64, name)
    finally:
        hook.remove()
    # Images and weights in 36 layers: a batch of each split, and both of train for the memorization check.
    assert seen == [True] * (2 * 36 * 4)


@pytest.mark.cuda
def test_the_batches_on_a_card_are_those_on_the_cpu(splits):
    options = {"batch_size": 4, "image_size": 8, "training": True, "augment": Augment(padding=2)}
    normalize = ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    given, expected = (
        list(ImageLoader(splits["train"].uri, **options, normalize=normalize, device=device))
        for device in ("cuda:0", "cpu")
    )
    assert len(given) == len(expected) == 4
    for (images, labels), (expected_images, expected_labels) in zip(given, expected, strict=True):
        assert images.device == labels.device == torch.device("cuda:0")
        torch.testing.assert_close(images.cpu(), expected_images, rtol=1e-5, atol=1e-5)
        assert labels.tolist() == expected_labels.tolist()
