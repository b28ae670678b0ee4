"""Runs the trials of an experiment one after another."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import dagster as dg

from lance_pipeline.display import printable
from lance_pipeline.orchestration.attributes import ImageClassifierAttributes
from lance_pipeline.orchestration.dataset import Dataset
from lance_pipeline.orchestration.lance_store import LanceStore
from lance_pipeline.orchestration.records import Model, Split
from lance_pipeline.orchestration.runtime.gpu import GpuResource
from lance_pipeline.orchestration.runtime.resumption import checkpoints_to_use, identity_digest
from lance_pipeline.orchestration.tracking.mlflow_tracking import MlflowTracking
from lance_pipeline.orchestration.tracking.run_names import base_name
from lance_pipeline.orchestration.tracking.tracked_run import TrackedRun
from lance_pipeline.orchestration.tracking.tracked_training import Finished, Plan, Surroundings, tracked_training
from lance_pipeline.orchestration.trials.median_rule import Course, course, falls_behind
from lance_pipeline.orchestration.trials.record import EXPERIMENT_TAG, TRIAL_TAG, Trial, run_of, trials_of
from lance_pipeline.orchestration.trials.settings import as_text, differences

if TYPE_CHECKING:
    from lance_pipeline.training.checkpoint import Checkpoints
    from lance_pipeline.training.device import Device
    from lance_pipeline.training.history import Epoch
    from lance_pipeline.training.start import Start

_IDENTITY_LENGTH = 32
PIN = "trial"
"""The tag on the Lance versions that the latest trial reads."""


@dataclass(frozen=True)
class Experiment:
    """The splits that all trials use, and where they run.

    Attributes:
        dataset: the dataset with its current settings.
        splits: train, val and test, as last materialized.
        model: the current model, or None.
        context: context of the step.
        stop: polled after each batch; a returned reason ends the experiment.
        test: whether to evaluate on the test split too. It selects nothing.
    """

    dataset: Dataset
    splits: dict[str, Split]
    model: Model | None
    context: dg.OpExecutionContext
    stop: Callable[[], str | None]
    gpu: GpuResource
    mlflow: MlflowTracking
    store: LanceStore
    test: bool = False

    def run(self, candidates: list[ImageClassifierAttributes], seeds: int) -> None:
        """Train each candidate with each seed; one that falls behind gets no further seeds.

        Raises:
            InputError: a problem that the user can fix keeps a trial from finishing.
            Stopped: the experiment was asked to stop; running the same experiment resumes it.
        """
        behind: set[int] = set()
        courses = self._first_course() if len(candidates) > 1 else None
        number = 0
        for seed in range(seeds):
            for place, candidate in enumerate(candidates):
                number += 1
                what = f"Trial {number} of {seeds * len(candidates)}"
                if place in behind:
                    self.context.log.info(f"{what}: skipped, because it fell behind with another seed")
                    continue
                recipe = candidate.recipe.model_copy(update={"seed": candidate.recipe.seed + seed})
                trial = self._trial(what, candidate.model_copy(update={"recipe": recipe}), courses)
                if trial.stopped_early:
                    behind.add(place)

    def _first_course(self) -> list[Course]:
        """The course of the current model, if it was trained on the same data."""
        if self.model is None or any(
            getattr(self.model, split) != self.splits[split].data for split in ("train", "val")
        ):
            return []
        run = run_of(self.mlflow, self.model)
        return [_course_of(run, int(self.model.recipe.epochs))] if run else []

    def _trial(self, what: str, attributes: ImageClassifierAttributes, courses: list[Course] | None) -> Trial:
        """Train, unless the same trial is already done."""
        log, on_wait = self.context.log.info, lambda text: self.context.log.info(printable(text))
        dataset = replace(self.dataset, attributes=attributes)
        changes = as_text(
            differences(self.dataset.attributes, attributes.recipe, attributes.image_size, attributes.model)
        )
        log(printable(f"{what}: {changes or 'the current recipe'}, seed {attributes.recipe.seed}"))
        plan = Plan(
            dataset.name,
            self.splits["train"],
            self.splits["val"],
            attributes.model,
            dataset.recipe,
            attributes.image_size,
            tags={EXPERIMENT_TAG: "true"},
            trial=True,
        )
        name = f"{dataset.name} trial"
        with self.gpu.hold(
            name,
            self.context.run_id,
            devices=attributes.device,
            precision=dataset.recipe.precision,
            on_wait=on_wait,
            stop=self.stop,
        ) as device:
            start = plan.start(device, self.store.downloads_folder, self.store.trials_folder(plan.dataset))
            identity = identity_digest(plan.identity(start.recipe))[:_IDENTITY_LENGTH]
            if (done := self._done(identity)) is not None:
                run, trial = done
                log(f"{run.name} was this already")
            else:
                run, trial = self._train(plan, start, attributes, device, identity, courses)
        if courses is not None and not trial.stopped_early:
            courses.append(_course_of(run, trial.epochs))
        return trial

    def _done(self, identity: str) -> tuple[TrackedRun, Trial] | None:
        wanted = (trial for trial in trials_of(self.mlflow, self.dataset.name) if trial[1].identity == identity)
        return next((one for one in wanted if one[1].test_accuracy is not None or not self.test), None)

    def _train(
        self,
        plan: Plan,
        start: "Start",
        attributes: ImageClassifierAttributes,
        device: "Device",
        identity: str,
        courses: list[Course] | None,
    ) -> tuple[TrackedRun, Trial]:
        from lance_pipeline.evaluation.plots import learning_curve
        from lance_pipeline.orchestration.tracking.training_log import training_record

        log, folder = self.context.log, self.store.trials_folder(plan.dataset)

        def choose(identity: dict[str, Any]) -> "Checkpoints":
            return checkpoints_to_use(log.info, lambda: iter(()), folder, identity, device, fresh=False, every=600)

        def enough(history: "list[Epoch]") -> bool:
            own = course([epoch.val_accuracy for epoch in history], history[0].of) if history else []
            return courses is not None and falls_behind(own, courses)

        surroundings = Surroundings(
            self.context.run_id,
            log,
            lambda figures: None,
            self.stop,
            folder,
            lambda training_id: PIN,
            self.mlflow,
            self.store,
        )
        with tracked_training(plan, start, device, surroundings, choose, enough) as finished:
            trained, run = finished.trained, finished.run
            stopped = enough(trained.history)
            trial = Trial(
                identity=identity,
                # As given: a file of weights keeps its path from the `defs.yaml`.
                recipe=attributes.recipe,
                model=plan.network,
                image_size=plan.image_size,
                train=plan.train.data,
                val=plan.val.data,
                val_accuracy=trained.best.val_accuracy,
                test_accuracy=self._test_accuracy(finished, device) if self.test else None,
                epochs=len(trained.history),
                seconds=sum(epoch.duration for epoch in trained.history),
                stopped_early=stopped,
            )
            training = training_record(finished.checkpoints, device, trained.history, "")
            with self.mlflow.clear_errors():
                curve = learning_curve(trained.history, trained.best, f"{plan.dataset}: learning curve")
                run.log_file(curve, "learning_curve.png")
                run.log_file(training.to_json(), "trial.json")
                # Logged last, because everything it refers to exists by now.
                run.log_tags({TRIAL_TAG: trial.to_json().decode()})
        finished.checkpoints.remove()
        end = ", stopped early because it fell behind" if stopped else ""
        log.info(f"{base_name(run.name)}: val accuracy {trial.val_accuracy:.2%} after {trial.epochs} epochs{end}")
        return run, trial

    def _test_accuracy(self, finished: Finished, device: "Device") -> float:
        from lance_pipeline.evaluation.metrics import classification_metrics
        from lance_pipeline.evaluation.prediction import evaluation_loader, predict
        from lance_pipeline.images import LanceSplit
        from lance_pipeline.training.model import build_network

        split, card = self.splits["test"], finished.card
        network = build_network(card.architecture, len(card.classes), card.stem)
        network.load_state_dict(finished.trained.state)
        loader = evaluation_loader(LanceSplit(**split.data.model_dump()), card, device)
        metrics = classification_metrics(predict(network, loader, device), card.classes)
        with self.mlflow.clear_errors():
            finished.run.log_evaluation(f"{self.dataset.name}_test", "test", split, metrics.scalars())
        return metrics.accuracy


def _course_of(run: TrackedRun, epochs: int) -> Course:
    return course([one.value for one in run.client.get_metric_history(run.run_id, "val_accuracy")], epochs)
