import copy
import re
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

from lance_pipeline.errors import InputError
from lance_pipeline.training import learner as module
from lance_pipeline.training.device import choose_device
from lance_pipeline.training.learner import Learner, balanced_weights
from lance_pipeline.training.recipe import Recipe
from lance_pipeline.training.step_graph import Step, kind_of

CPU = choose_device("cpu")
IMAGES = torch.linspace(-1, 1, 8 * 3 * 4 * 4).reshape(8, 3, 4, 4)
LABELS = torch.tensor([0, 1] * 4)


class Limited(nn.Module):
    """A model on a device with memory for a limited number of images."""

    def __init__(self, most: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.most = most
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(48, 5), nn.Linear(5, 2))
        self.head = nn.Linear(2, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if len(images) > self.most:
            raise torch.OutOfMemoryError
        return self.head(self.body(images))


def learner(most: int = 8, told: list[str] | None = None, **fields) -> Learner:
    recipe = Recipe.model_validate({"epochs": 1, "schedule": "constant", "learning_rate": 0.1} | fields)
    return Learner(Limited(most), recipe, CPU, steps=20, log_line=(told if told is not None else []).append)


def test_a_batch_that_memory_does_not_hold_is_learned_in_parts():
    told: list[str] = []
    whole, parts = learner(), learner(2, told)
    for one in (whole, parts):
        one.begin_epoch(0)
    losses = [one.step(IMAGES, LABELS).item() for one in (whole, parts)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    for one, other in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(one, other)
    assert [re.findall(r"\d+ micro-batches", text) for text in told] == [["2 micro-batches"], ["4 micro-batches"]]
    parts.step(IMAGES, LABELS)
    assert len(told) == 2


def test_memory_that_does_not_hold_two_images():
    with pytest.raises(InputError, match="image_size"):
        learner(1).step(IMAGES, LABELS)


def test_at_first_the_head_alone_is_trained():
    one = learner(freeze_epochs=1)
    before = {name: value.clone() for name, value in one.model.state_dict().items()}
    for epoch, moved in ((0, {"head.weight", "head.bias"}), (1, set(before))):
        one.begin_epoch(epoch)
        one.step(IMAGES, LABELS)
        after = one.model.state_dict()
        assert {name for name in before if not torch.equal(before[name], after[name])} == moved


def test_the_average_is_judged_and_lags_behind():
    one = learner(averaging=0.5)
    one.begin_epoch(0)
    for _ in range(3):
        one.step(IMAGES, LABELS)
    assert one.evaluation_model is not one.model
    averaged, last = one.evaluation_model.state_dict(), one.model.state_dict()
    assert not torch.equal(averaged["head.weight"], last["head.weight"])
    plain = learner(averaging=0.0)
    assert plain.evaluation_model is plain.model


def test_a_graph_needs_a_card():
    with pytest.raises(InputError, match=r"step: graph.*cpu"):
        learner(step="graph")


class Replayed:
    """Runs the step on its own memory each time, as a CUDA graph does, but without one."""

    recorded = 0

    def __init__(self, step: Step, images: torch.Tensor, targets: torch.Tensor) -> None:
        type(self).recorded += 1
        self.kind = kind_of(images, targets)
        self._step, self._images, self._targets = step, images.clone(), targets.clone()

    def __call__(self, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        self._images.copy_(images)
        self._targets.copy_(targets)
        return self._step(self._images, self._targets)


def losses(fields: dict[str, Any], most: int = 8) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses and weights of three epochs whose last batches are smaller, resumed in the second."""
    one = learner(most, schedule="one_cycle", averaging=0.5, **fields)
    found = []
    for epoch in range(3):
        one.begin_epoch(epoch)
        for batch in range(5):
            images = IMAGES.roll(batch, 0) if batch < 4 else IMAGES[:3]
            found.append(one.step(images, LABELS[: len(images)]).item())
        if epoch == 1:
            state = copy.deepcopy(one.state_dict())
            one = learner(most, schedule="one_cycle", averaging=0.5, **fields)
            one.load_state_dict(state)
    return found, one.evaluation_model.state_dict()


@pytest.mark.parametrize("fields", [{}, {"freeze_epochs": 1}, {"gradient_clip": 0.1}], ids=str)
def test_a_recorded_step_is_taken_where_it_fits(fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    expected = losses(fields)
    monkeypatch.setattr(module, "StepGraph", Replayed)
    monkeypatch.setattr(module, "_records", lambda recipe, device: True)
    monkeypatch.setattr(Replayed, "recorded", 0)
    found = losses(fields)
    assert found[0] == expected[0]
    assert all(torch.equal(found[1][key], value) for key, value in expected[1].items())
    # Once for each kind of step, and once after resuming.
    assert Replayed.recorded == (3 if "freeze_epochs" in fields else 2)


def test_a_step_that_cannot_be_recorded_is_launched_as_it_is(monkeypatch: pytest.MonkeyPatch):
    def refused(*_: object) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(module, "StepGraph", refused)
    monkeypatch.setattr(module, "_records", lambda recipe, device: True)
    told: list[str] = []
    one = learner(told=told)
    one.begin_epoch(0)
    assert all(torch.isfinite(one.step(IMAGES, LABELS)) for _ in range(6))
    assert len(told) == 1
    assert "not permitted" in told[0]
    wanting = learner()
    wanting._recipe = wanting._recipe.model_copy(update={"step": "graph"})
    for _ in range(3):
        wanting.step(IMAGES, LABELS)
    with pytest.raises(InputError, match="step: graph"):
        wanting.step(IMAGES, LABELS)


def test_gradients_are_clipped():
    one = learner(gradient_clip=1e-3, momentum=0.0, weight_decay=0.0)
    before = torch.cat([value.detach().clone().flatten() for value in one.model.parameters()])
    one.begin_epoch(0)
    one.step(IMAGES, LABELS)
    after = torch.cat([value.detach().flatten() for value in one.model.parameters()])
    assert (after - before).norm().item() == pytest.approx(0.1 * 1e-3, rel=1e-2)


def test_balanced_weights_are_those_of_scikit_learn():
    labels = [0] * 6 + [1] * 3 + [2]
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    assert balanced_weights([6, 3, 1]).tolist() == pytest.approx(list(expected))
    assert balanced_weights([6, 0, 4])[1] == 0
