"""The time in which our recipe reaches the article's best accuracy, on the GPU."""

import json
import os
import sys

from benchmarks.gpu.part import Figures, Job, printed_by
from benchmarks.training.course import RECIPES, Course, recipe_of
from benchmarks.training.sources import FASHION, make_source


def measure(job: Job, figures: Figures) -> None:
    """Train with each recipe on Fashion-MNIST; in a trial without its files, on the digits."""
    sizes = job.sizes
    source = "digits" if job.tiny and not job.fashion else "fashion"
    root = make_source(source, job.work, sizes.fashion, job.fashion or FASHION)
    figures.put("source", source)
    courses: dict[str, Course] = {}
    for name in RECIPES:
        with figures.attempt(f"the recipe {name}"):
            recipe = recipe_of(name, source, 0, sizes.fashion_epochs)
            if sizes.fashion_batches:
                recipe = recipe.model_copy(update={"batches_per_epoch": sizes.fashion_batches})
            out = os.path.join(job.work, f"by_{name}")
            command = [sys.executable, "-m", "benchmarks.training.child", root, out, recipe.model_dump_json()]
            course = courses[name] = Course(**json.loads(printed_by([*command, job.device])))
            epochs, images = len(course.ends), course.images
            facts = {"epochs": epochs, "images": images, "seconds": course.seconds, "best": course.best}
            figures.put(name, facts | {"ends": course.ends, "accuracies": course.accuracies})
    if len(courses) == len(RECIPES):
        goal = courses["article"].best
        figures.put("goal", goal)
        figures.put("seconds_to_goal", {name: course.seconds_to(goal) for name, course in courses.items()})
