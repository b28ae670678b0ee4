"""Names of MLflow runs: ``digits-0007``, then ``digits-0007 val 98.9 %`` once the result is known."""

import random
import re
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

NUMBER_TAG = "lance_pipeline.number"
"""Tag of a run: its number. Tag of an experiment: the last number in use."""
_PAUSE = 0.5
_TRIAL = " trial"
_RESULT = re.compile(r" (val|test) [\d.]+ %$")


def run_name(dataset: str, number: int, *, trial: bool = False) -> str:
    """The name of a run without a result yet."""
    return f"{dataset}-{number:04d}{_TRIAL if trial else ''}"


def base_name(name: str) -> str:
    """The name of a run without its result."""
    return _RESULT.sub("", name).removesuffix(_TRIAL)


def with_result(name: str, split: str, accuracy: float) -> str:
    """The name with the result, replacing an earlier result."""
    return f"{_RESULT.sub('', name)} {split} {accuracy * 100:.1f} %"


def create_numbered_run(
    client: "MlflowClient", experiment_id: str, dataset: str, tags: dict[str, str], *, trial: bool = False
) -> "Run":
    """Create a run with a number that is unique in its experiment; the caller keeps other processes out.

    The caller can keep out only processes of this host. If another host takes the same number on a shared server, both
    notice, and each takes another one.

    Args:
        client: an MLflow client.
        experiment_id: the experiment, one for each dataset.
        dataset: the dataset's name.
        tags: tags of the run.
        trial: whether the run belongs to no asset.
    """
    number = _next_number(client, experiment_id)
    name = run_name(dataset, number, trial=trial)
    run = client.create_run(experiment_id, run_name=name, tags=tags | {NUMBER_TAG: str(number)})
    while len(client.search_runs([experiment_id], f"tags.`{NUMBER_TAG}` = '{number}'", max_results=2)) > 1:
        time.sleep(random.uniform(0, _PAUSE))  # noqa: S311 - no secret
        number = _next_number(client, experiment_id)
        client.set_tag(run.info.run_id, NUMBER_TAG, str(number))
        client.update_run(run.info.run_id, name=run_name(dataset, number, trial=trial))
    return client.get_run(run.info.run_id)


def _next_number(client: "MlflowClient", experiment_id: str) -> int:
    # Stored in a tag rather than derived from the runs, because runs may have been removed.
    number = int(client.get_experiment(experiment_id).tags.get(NUMBER_TAG, 0)) + 1
    client.set_experiment_tag(experiment_id, NUMBER_TAG, str(number))
    return number
