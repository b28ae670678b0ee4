"""The note on an MLflow run's page: what was trained, on which data, and how."""

from lance_pipeline.display import printable
from lance_pipeline.orchestration.records import Split
from lance_pipeline.training.recipe import Recipe

NOTE_TAG = "mlflow.note.content"
_LEFT_OUT = {"preset"}


def run_note(
    dataset: str,
    splits: dict[str, Split],
    network: str,
    recipe: Recipe,
    image_size: int,
    dagster_run: str,
    *,
    linked: bool,
) -> str:
    """The note, in Markdown.

    Args:
        dataset: name of the dataset.
        splits: the splits that the training reads, by name.
        network: the name of the network.
        recipe: the recipe as given.
        image_size: in pixels.
        dagster_run: the id of the Dagster run that trains.
        linked: whether Dagster's UI and MLflow's share one address.
    """
    data = ", ".join(
        f"{split} version {one.data.version} ({one.rows:,} images in {len(one.counts)} classes)"
        for split, one in splits.items()
    )
    changes = ", ".join(f"{name}: {value}" for name, value in recipe_changes(recipe).items()) or "none"
    run = f"[{dagster_run[:8]}](/runs/{dagster_run})" if linked else f"`{dagster_run}`"
    return "\n\n".join(
        [
            f"**Dataset** {dataset}: {data}",
            f"**Model** {network}",
            f"**Recipe, other than the defaults** {_code(changes)}, images of {image_size} pixels",
            f"**Dagster run** {run}",
        ]
    )


def recipe_changes(recipe: Recipe, usual: Recipe | None = None) -> dict[str, object]:
    """Settings of a recipe that differ from another one, or from the defaults."""
    ours, theirs = (one.model_dump(mode="json", exclude=_LEFT_OUT) for one in (recipe, usual or Recipe()))
    return {name: value for name, value in ours.items() if value != theirs[name]}


def _code(text: str) -> str:
    return f"`{printable(text).replace('`', chr(39))}`"
