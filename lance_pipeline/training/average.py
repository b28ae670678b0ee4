"""A moving average of a model's weights."""

import copy
from typing import Any

import torch
from torch import nn


class WeightAverage:
    """An exponential moving average of the weights and buffers, such as the statistics of batch norm.

    Like torch's ``AveragedModel`` with ``get_ema_multi_avg_fn``, but an update does not wait for the device. Counters
    are copied, not averaged.

    Args:
        model: the model to average; its tensors must stay the same objects.
        decay: the decay of each update, above 0 and below 1.

    Attributes:
        module: a copy of the model that holds the average.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(model)
        self._decay, self._begun = decay, False
        self._averages, self._copies = _tensors(self.module)
        self._weights, self._counters = _tensors(model)

    @torch.no_grad()
    def update(self) -> None:
        """Add the model's current weights to the average; the first update copies them."""
        # torch's optimizers use these functions too: one call for all tensors.
        if self._begun:
            torch._foreach_lerp_(self._averages, self._weights, 1 - self._decay)  # pyright: ignore[reportPrivateImportUsage]
        else:
            torch._foreach_copy_(self._averages, self._weights)  # pyright: ignore[reportPrivateImportUsage]
        if self._counters:
            torch._foreach_copy_(self._copies, self._counters)  # pyright: ignore[reportPrivateImportUsage]
        self._begun = True

    def state_dict(self) -> dict[str, Any]:
        """Everything that later updates depend on."""
        return {"module": self.module.state_dict(), "begun": self._begun}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from a state."""
        self.module.load_state_dict(state["module"])
        self._begun = state["begun"]


def _tensors(model: nn.Module) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """The tensors to average, and those to copy."""
    tensors = [*model.parameters(), *model.buffers()]
    return [one for one in tensors if one.is_floating_point()], [one for one in tensors if not one.is_floating_point()]
