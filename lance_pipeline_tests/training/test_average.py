"""The moving average of the weights equals torch's."""

import copy

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lance_pipeline.training.average import WeightAverage


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 2))


def change(model: nn.Module) -> None:
    with torch.no_grad():
        model(torch.randn(4, 3, 8, 8))
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))


@settings(deadline=None, max_examples=20)
@given(decay=st.floats(0.01, 0.999), updates=st.integers(1, 6), resume_at=st.integers(0, 6))
def test_it_is_torchs(decay: float, updates: int, resume_at: int):
    model = network()
    ours = WeightAverage(model, decay)
    torchs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
    for number in range(updates):
        if number == resume_at:
            state = copy.deepcopy(ours.state_dict())
            ours = WeightAverage(model, decay)
            ours.load_state_dict(state)
        change(model)
        ours.update()
        torchs.update_parameters(model)
    expected = torchs.module.state_dict()
    for key, value in ours.module.state_dict().items():
        if value.is_floating_point():
            assert torch.equal(value, expected[key]), key
    assert ours.module.get_buffer("1.num_batches_tracked") == model.get_buffer("1.num_batches_tracked")
