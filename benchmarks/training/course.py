"""The course of a training, and the recipes to compare."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.measure import Measurement
from benchmarks.results import Results, Spread, spread_of
from benchmarks.training.sources import SOURCES
from lance_pipeline.training.recipe import Recipe

IMAGE_SIZE = 32
RECIPES = {"ours": {}, "article": {"preset": "article", "weights": "none"}}
TITLES = {"ours": "**ours, all defaults**", "article": "the article's recipe"}


@dataclass(frozen=True)
class Course(Measurement):
    """One training.

    Attributes:
        images: the number of images in the train split.
        seconds: the duration, including building the model.
        seed: the seed of the recipe.
        ends: seconds from the start to the end of each epoch, validation included.
        accuracies: the accuracy on the val split after each epoch.
    """

    seed: int = 0
    ends: tuple[float, ...] = ()
    accuracies: tuple[float, ...] = ()

    @property
    def best(self) -> float:
        """The best accuracy of all epochs; 0 before the first."""
        return max(self.accuracies, default=0.0)

    def seconds_to(self, accuracy: float) -> float | None:
        """Seconds to the end of the first epoch with at least this accuracy; None if there is none."""
        return next((end for end, found in zip(self.ends, self.accuracies, strict=True) if found >= accuracy), None)


def recipe_of(name: str, source: str, seed: int, epochs: int | None) -> Recipe:
    """A contestant's recipe for a dataset; ``epochs`` overrides its number of epochs, for a trial."""
    settings = {**RECIPES[name], **SOURCES[source].settings, "seed": seed}
    return Recipe.model_validate(settings if epochs is None else settings | {"epochs": epochs})


def courses(results: Results, source: str, name: str) -> Sequence[Course]:
    """The trainings of a contestant, one for each seed."""
    return [run for run in results.runs.get(source, {}).get(name, []) if isinstance(run, Course)]


def seconds_to_goal(results: Results, source: str, name: str) -> list[float | None]:
    """For each seed, the seconds to the best accuracy of the article's whole training with this seed.

    None if it was not reached; seeds with a failed training are left out.
    """
    pairs = zip(courses(results, source, name), courses(results, source, "article"), strict=True)
    return [run.seconds_to(article.best) for run, article in pairs if not run.error and not article.error]


def sooner(results: Results, source: str) -> Spread | None:
    """The speed-up with which ours reaches the article's best, over the seeds; None unless it does with all seeds."""
    ours, article = (seconds_to_goal(results, source, name) for name in ("ours", "article"))
    ratios = [theirs / mine for mine, theirs in zip(ours, article, strict=True) if mine and theirs]
    return spread_of(ratios) if len(ratios) == len(ours) else None
