import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

from lance_pipeline.errors import InputError
from lance_pipeline.training.device import choose_device
from lance_pipeline.training.learner import Learner, balanced_weights
from lance_pipeline.training.recipe import Recipe

CPU = choose_device("cpu")
IMAGES = torch.linspace(-1, 1, 8 * 3 * 4 * 4).reshape(8, 3, 4, 4)
LABELS = torch.tensor([0, 1] * 4)


class Limited(nn.Module):
    """A model on a device that holds no more than so many images."""

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
    return Learner(Limited(most), recipe, CPU, steps=10, tell=(told if told is not None else []).append)


def test_a_batch_that_memory_does_not_hold_is_learned_in_parts():
    told: list[str] = []
    whole, parts = learner(), learner(2, told)
    for one in (whole, parts):
        one.begin_epoch(0)
    losses = [one.step(IMAGES, LABELS).item() for one in (whole, parts)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    for one, other in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(one, other)
    assert [text.split("taken in ")[1].split(",")[0] for text in told] == ["2 parts", "4 parts"]
    parts.step(IMAGES, LABELS)
    assert len(told) == 2


def test_memory_that_does_not_hold_two_images():
    with pytest.raises(InputError, match=r"too little memory for 2 images.*image_size"):
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
    assert one.judged is not one.model
    averaged, last = one.judged.state_dict(), one.model.state_dict()
    assert not torch.equal(averaged["head.weight"], last["head.weight"])
    plain = learner(averaging=0.0)
    assert plain.judged is plain.model


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
