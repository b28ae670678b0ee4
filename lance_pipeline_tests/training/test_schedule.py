"""The learning rates equal those of torch's schedules, on whichever device the optimizer keeps its rate."""

import pytest
import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import OneCycleLR

from lance_pipeline.training.schedule import LearningRates


def test_one_cycle_is_torchs_and_resumes():
    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    schedule = OneCycleLR(optimizer, max_lr=0.1, total_steps=20, cycle_momentum=False)
    rates = LearningRates("one_cycle", 0.1, 20)
    for step in range(19):
        assert rates.current == schedule.get_last_lr()[0]
        if step == 7:
            state = rates.state_dict()
            rates = LearningRates("one_cycle", 0.1, 20)
            rates.load_state_dict(state)
        optimizer.step()
        schedule.step()
        rates.advance()


def test_constant():
    rates = LearningRates("constant", 0.3, 5)
    for _ in range(5):
        assert rates.current == pytest.approx(0.3)
        rates.advance()
