"""The learning rate of each step."""

from typing import Any, Literal

import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import ConstantLR, LRScheduler, OneCycleLR


class LearningRates:
    """torch's schedules, separate from the training optimizer.

    That optimizer may keep its rate on a device, where torch's schedules would wait for it in each step.

    Args:
        schedule: ``one_cycle`` or ``constant``.
        peak: the highest rate.
        steps: the number of steps in the whole training.
    """

    def __init__(self, schedule: Literal["one_cycle", "constant"], peak: float, steps: int) -> None:
        # A dummy optimizer, which trains nothing.
        self._carrier = SGD([torch.zeros(1, requires_grad=True)], lr=peak)
        self._schedule: LRScheduler = (
            ConstantLR(self._carrier, factor=1.0)
            if schedule == "constant"
            else OneCycleLR(self._carrier, max_lr=peak, total_steps=steps, cycle_momentum=False)
        )

    @property
    def current(self) -> float:
        """The learning rate of the next step."""
        return float(self._schedule.get_last_lr()[0])

    def advance(self) -> None:
        """Advance by one step."""
        # torch warns if the schedule steps before its optimizer.
        self._carrier.step()
        self._schedule.step()

    def state_dict(self) -> dict[str, Any]:
        """The state of the schedule."""
        return self._schedule.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from a state."""
        self._schedule.load_state_dict(state)
