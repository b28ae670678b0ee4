"""The rule that decides when a trial of a search has fallen behind."""

from statistics import median

Course = list[tuple[float, float]]
"""For each epoch: the share of all epochs done by then, and the best val accuracy so far."""
_EARLIEST = 1 / 3
_LEAST_OTHERS = 2


def course(accuracies: list[float], epochs: int) -> Course:
    """The course of a training with this number of epochs, as far as it has come."""
    return [(number / epochs, max(accuracies[:number])) for number in range(1, len(accuracies) + 1)]


def falls_behind(own: Course, others: list[Course]) -> bool:
    """Whether a trial is below the median of the others at the same share of their epochs.

    Never in the first third of its epochs, and never with fewer than two others for comparison.
    """
    if not own or own[-1][0] < _EARLIEST:
        return False
    share, best = own[-1]
    then = [reached for other in others if (reached := _at(other, share)) is not None]
    return len(then) >= _LEAST_OTHERS and best < median(then)


def _at(other: Course, share: float) -> float | None:
    return max((best for done, best in other if done <= share + 1e-9), default=None)
