"""The results of a training's epochs."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lance_pipeline.storage.formats import known_fields

BestBy = Literal["accuracy", "macro_f1", "loss"]
# Fields that differ between runs even if the trainings are equal.
TIMINGS = ("duration", "images_per_second", "data_wait", "seconds_left", "ended")


@dataclass(frozen=True)
class Epoch:
    """The results of one epoch.

    Losses are means over images, in nats; times are in seconds. ``data_wait`` is the share of the time from the first
    to the last batch spent waiting for data, ``learning_rate`` that of the first batch, ``ended`` a Unix time.
    """

    number: int
    of: int
    train_loss: float
    val_loss: float
    val_accuracy: float
    val_macro_f1: float
    learning_rate: float
    duration: float
    images_per_second: float
    data_wait: float
    seconds_left: float
    ended: float

    def figures(self) -> dict[str, float]:
        """The values to log as series: all but ``number``, ``of`` and ``ended``."""
        kept = {key: value for key, value in vars(self).items() if key not in ("number", "of", "ended")}
        return {key: float(value) for key, value in kept.items()}

    def outcome(self) -> dict[str, float]:
        """The values that the same training always reproduces: number and figures without the timings."""
        return {"number": self.number} | {key: value for key, value in self.figures().items() if key not in TIMINGS}

    def rank(self, by: BestBy) -> tuple[float, float]:
        """A sort key, greater for a better epoch; the loss breaks ties."""
        values = {"accuracy": self.val_accuracy, "macro_f1": self.val_macro_f1, "loss": -self.val_loss}
        return values[by], -self.val_loss


def best_of(history: list[Epoch], by: BestBy) -> Epoch:
    """The first of the best epochs."""
    return max(history, key=lambda epoch: epoch.rank(by))


def read_history(stored: Iterable[Mapping[str, Any]]) -> list[Epoch]:
    """The epochs stored in a checkpoint."""
    return [Epoch(**known_fields(Epoch, epoch)) for epoch in stored]
