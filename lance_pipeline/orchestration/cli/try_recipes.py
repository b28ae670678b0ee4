"""``lance-pipeline try``: train with other settings, list the trials, adopt one."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import yaml

from lance_pipeline.display import printable
from lance_pipeline.errors import InputError
from lance_pipeline.orchestration.attributes import ImageClassifierAttributes
from lance_pipeline.orchestration.cli.code_location import job_metadata
from lance_pipeline.orchestration.cli.run import shown_run, unknown
from lance_pipeline.orchestration.records import Split
from lance_pipeline.orchestration.resources import default_resources
from lance_pipeline.orchestration.runtime.databases import require_sound_databases
from lance_pipeline.orchestration.runtime.instance import prepare_instance
from lance_pipeline.orchestration.trials.adoption import adopt
from lance_pipeline.orchestration.trials.job import CURRENT, job_name, require_val_only, run_config
from lance_pipeline.orchestration.trials.listing import candidates_of, listing
from lance_pipeline.orchestration.trials.settings import as_text, candidates, differences, from_command_line

_SUFFIX = job_name("")
_DEFINITIONS = "lance_pipeline.definitions"


def try_recipes(dataset: str, words: Sequence[str], module: str, seeds: int, *, test: bool) -> int:
    """Train with other settings, tracked in MLflow only; returns Dagster's exit status.

    Args:
        dataset: name of the dataset.
        words: settings, such as ``recipe.epochs=30``.
        module: module of the definitions, as Dagster's ``-m`` takes it.
        seeds: number of trainings of each candidate.
        test: whether to evaluate on the test split too.

    Raises:
        InputError: there is no such dataset, it has no splits yet, or a setting is wrong.
    """
    now, _ = _current(dataset, module)
    values = from_command_line(words)
    chosen = candidates(now, values)
    require_val_only(len(chosen), test=test)
    if seeds < 1:
        raise InputError(f"--seeds {seeds}: expected a number from 1 on.")
    _require_splits(dataset)
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as config:
        yaml.safe_dump(run_config(dataset, values, seeds, test=test), config)
        config.flush()
        return shown_run(["job", "execute", "-m", module, "-j", job_name(dataset), "-c", config.name])


def print_trials(dataset: str, module: str) -> None:
    """Print the trials beside the current model.

    Raises:
        InputError: there is no such dataset, or a database or record is damaged.
    """
    now, _ = _current(dataset, module)
    _require_splits(dataset)
    resources = default_resources()
    with dg.DagsterInstance.get() as instance:
        lines = listing(dataset, now, resources["io_manager"], instance, resources["mlflow"])
    print("\n".join(lines))


def adopt_trial(dataset: str, name: str, module: str) -> None:
    """Write a trial's changed settings into the dataset's ``defs.yaml``.

    Raises:
        InputError: there is no such dataset or trial, or the file cannot be edited.
    """
    now, path = _current(dataset, module)
    found = candidates_of(default_resources()["mlflow"], dataset)
    names = [name for one in found for name in one.names]
    if name not in names:
        raise InputError(
            f"there is no trial {name!r} of {dataset}; there are {', '.join(sorted(names)) or 'none'}. "
            f"`lance-pipeline try {dataset} --list` shows them."
        )
    trial = next(one for one in found if name in one.names).trials[0]
    changes = differences(now, trial.recipe, trial.image_size, trial.model)
    if not changes:
        print(f"{path} has the settings of {name} already.")
        return
    adopt(path, dataset, changes)
    print(printable(f"{path}: {as_text(changes)}"))
    where = "" if module == _DEFINITIONS else f" -m {module}"
    print(f"To train with it: lance-pipeline run {dataset} {trial.model} metrics_val metrics_test{where}")


def _current(dataset: str, module: str) -> tuple[ImageClassifierAttributes, Path]:
    """The current values of all attributes that trials may change, and the file that defines them."""
    known = {
        name.removesuffix(_SUFFIX): metadata[CURRENT].value
        for name, metadata in job_metadata(module).items()
        if CURRENT in metadata
    }
    about: Any = known.get(dataset)
    if about is None:
        raise InputError(unknown("dataset", dataset, list(known)))
    fields = {name: about[name] for name in ("recipe", "model", "image_size")}
    attributes = ImageClassifierAttributes.model_validate({"source": {"folder": "anywhere"}} | fields)
    return attributes, Path(about["defs_yaml"])


def _require_splits(dataset: str) -> None:
    """Require splits to train on."""
    prepare_instance()
    require_sound_databases()
    records = default_resources()["io_manager"]
    with dg.DagsterInstance.get() as instance:
        for split in ("train", "val"):
            records.read(instance, dg.AssetKey([dataset, f"lance_{split}"]), Split)
