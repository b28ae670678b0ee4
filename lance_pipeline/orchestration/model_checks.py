"""The checks of a model and its metrics, with advice on what to try."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import dagster as dg

from lance_pipeline.orchestration.checks import never_materialized
from lance_pipeline.orchestration.dataset import Dataset
from lance_pipeline.orchestration.metadata import shown
from lance_pipeline.orchestration.record_io import RecordIOManager, record_of
from lance_pipeline.orchestration.records import Metrics, Model
from lance_pipeline.orchestration.runtime.failures import clear_failures

if TYPE_CHECKING:
    from lance_pipeline.evaluation.advice import Advice

_LOOKED_BACK = 20
MODEL_CHECKS = {
    "beats_guessing": "The model does better than naming the commonest class each time, beyond chance.",
    "has_converged": "The val accuracy no longer rose when the training ended.",
    "generalizes": "The model does about as well on the val split as on images that it has learned from.",
}
METRICS_CHECKS = {
    "beats_guessing": MODEL_CHECKS["beats_guessing"],
    "keeps_up": "The model is not far below the one before it.",
}


def build_model_checks(dataset: Dataset) -> dg.AssetChecksDefinition:
    """The checks of the model and of ``<dataset>/metrics_<split>``, for their existing versions."""
    model_key = dataset.model_key
    wanted = {
        model_key: MODEL_CHECKS,
        **{dataset.key(f"metrics_{split}"): METRICS_CHECKS for split in ("val", "test")},
    }
    specs = [
        dg.AssetCheckSpec(name, asset=key, description=description)
        for key, checks in wanted.items()
        for name, description in checks.items()
    ]

    @dg.multi_asset_check(name=f"{dataset.name}__model_checks", specs=specs, op_tags=dataset.step_tags, can_subset=True)
    def model_checks(
        context: dg.AssetCheckExecutionContext, io_manager: dg.ResourceParam[RecordIOManager]
    ) -> Iterator[dg.AssetCheckResult]:
        for key in wanted:
            asked = [check for check in context.selected_asset_check_keys if check.asset_key == key]
            if asked and context.instance.get_latest_materialization_event(key) is None:
                yield from never_materialized(key, asked)
                continue
            for check in asked:
                with clear_failures(context):
                    advice = (_of_model if key == model_key else _of_metrics)(context.instance, io_manager, check)
                yield _result(context, check, advice)

    return model_checks


def _result(context: dg.AssetCheckExecutionContext, check: dg.AssetCheckKey, advice: "Advice") -> dg.AssetCheckResult:
    if not advice.passed:
        context.log.warning(f"{check.asset_key.to_user_string()}: {check.name}: {advice.text}")
    return dg.AssetCheckResult(
        asset_key=check.asset_key,
        check_name=check.name,
        passed=advice.passed,
        severity=dg.AssetCheckSeverity.WARN,
        description=advice.text or None,
        metadata=shown(advice.figures),
    )


def _of_model(instance: dg.DagsterInstance, records: RecordIOManager, check: dg.AssetCheckKey) -> "Advice":
    from lance_pipeline.evaluation.advice import beats_guessing, generalizes, has_converged

    model = records.read(instance, check.asset_key, Model)
    images = sum(model.val_counts.values())
    if model.train_accuracy is None or not images:
        return _unknown()
    if check.name == "has_converged":
        return has_converged(model.val_accuracies)
    if check.name == "generalizes":
        return generalizes(model.train_accuracy, model.val_accuracy, model.recipe)
    commonest = max(model.val_counts.values()) / images
    return beats_guessing(model.val_accuracy, images, commonest, model.recipe, model.image_size)


def _of_metrics(instance: dg.DagsterInstance, records: RecordIOManager, check: dg.AssetCheckKey) -> "Advice":
    from lance_pipeline.evaluation.advice import Advice, beats_guessing, keeps_up

    now = records.read(instance, check.asset_key, Metrics)
    if not now.images:
        return _unknown()
    if check.name == "beats_guessing":
        model = records.read(instance, dg.AssetKey([*check.asset_key.path[:-1], now.network]), Model)
        return beats_guessing(now.accuracy, now.images, now.commonest_class, model.recipe, model.image_size)
    before = _before(instance, check.asset_key, now)
    if before is None:
        return Advice(True, {"accuracy": now.accuracy})
    same_split = before.split.fingerprint == now.split.fingerprint
    return keeps_up(now.accuracy, now.images, before.accuracy, before.images, same_split=same_split)


def _before(instance: dg.DagsterInstance, key: dg.AssetKey, now: Metrics) -> Metrics | None:
    """The latest metrics of a different model, among the last materializations."""
    made = (one.asset_materialization for one in instance.fetch_materializations(key, limit=_LOOKED_BACK).records)
    earlier = (record_of(one, Metrics) for one in made if one is not None)
    return next((one for one in earlier if one is not None and one.model_sha256 != now.model_sha256), None)


def _unknown() -> "Advice":
    from lance_pipeline.evaluation.advice import Advice

    text = (
        "An earlier version of lance-pipeline made this without the figures that the check needs. Materialize it again."
    )
    return Advice(False, {}, text)
