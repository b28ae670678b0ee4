"""``lance-pipeline new``: create a dataset from a folder of images."""

import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from lance_pipeline.display import printable
from lance_pipeline.errors import InputError
from lance_pipeline.orchestration.attributes import NAME_PATTERN, ImageClassifierAttributes
from lance_pipeline.orchestration.cli.code_location import asset_specs
from lance_pipeline.orchestration.trials.adoption import with_settings
from lance_pipeline.orchestration.trials.settings import candidates, from_command_line, to_run_config
from lance_pipeline.storage.whole_files import write_whole

if TYPE_CHECKING:
    from lance_pipeline.sources.layout import Layout

# Pairs of a minimum for the usual shorter side of the images, in pixels, and the model's image size. Twice the size
# takes four times the time.
_SIZES = ((96, 128), (48, 64), (0, 32))
_TEMPLATE = """\
# {about}
type: lance_pipeline.ImageClassifier
attributes:
  source: {source}
  splits: {splits}
  image_size: {image_size}
"""


def new_dataset(name: str, folder: str, words: Sequence[str], module: str, *, draw: bool) -> None:
    """Inspect a folder of images, write its ``defs.yaml``, and print the next steps.

    Args:
        name: name of the dataset.
        folder: the folder of images, a path or an object-store URI.
        words: settings, such as ``recipe.epochs=5``.
        module: module of the definitions, as Dagster's ``-m`` takes it.
        draw: whether to draw train, val and test even where folders have these names.

    Raises:
        InputError: the name is taken or invalid, the folder has no classes, or a setting is wrong.
    """
    from lance_pipeline.sources.layout import layout_of
    from lance_pipeline.storage.uris import normalized_uri

    path, values = _path(name, module), from_command_line(words)
    place = normalized_uri(folder)
    if "{{" in place or "{%" in place:
        raise InputError(f"the path {printable(place)} would be run as a template. Rename the folder.")
    layout = layout_of(place)
    if len(layout.classes) < 2:
        raise InputError(
            f"{layout.folder} has folders for too few classes: {', '.join(layout.classes) or 'none'}. Expected two at "
            "least: give the folder that holds a folder of images for each class."
        )
    text = _with_settings(_defs_yaml(layout, draw=draw), name, values)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text.encode())
    except (OSError, UnicodeEncodeError) as error:
        raise InputError(f"cannot write {path}: {error}.") from error
    print("\n".join([f"{path}:", "", *map(printable, text.splitlines()), ""]))
    where = "" if module == "lance_pipeline.definitions" else f" -m {module}"
    print(f"Next:  lance-pipeline run {name}{where}")


def _path(name: str, module: str) -> Path:
    """The path of the dataset's new ``defs.yaml``, beside those of the other datasets."""
    if not re.fullmatch(NAME_PATTERN, name):
        raise InputError(f"{name!r} cannot name a dataset: expected letters, digits and _, a letter first.")
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise InputError(f"there is no module {module}; expected that of the definitions, as Dagster's `-m` takes it.")
    path = Path(spec.origin).parent / "defs" / name / "defs.yaml"
    if path.exists() or any(one.group_name == name for one in asset_specs(module)):
        raise InputError(f"there is a dataset {name} already. Choose another name, or edit {path}.")
    return path


def _defs_yaml(layout: "Layout", *, draw: bool) -> str:
    classes = f"{len(layout.classes)} classes"
    side = "" if layout.side is None else f", images of some {layout.side} pixels"
    # Images in an object store are not inspected: use the size that suits photos.
    size = next(size for least, size in _SIZES if (layout.side or 96) >= least)
    return _TEMPLATE.format(
        about=f"{classes}{side}, as found when this file was made.",
        source=_flow({"folder": layout.folder}),
        splits=_flow(_splits(layout, draw=draw)),
        image_size=size,
    )


def _splits(layout: "Layout", *, draw: bool) -> dict[str, object]:
    there = layout.splits
    shares = {"train": 0.7, "val": 0.15, "test": 0.15}
    if not there or draw:
        pool = {"pool": list(there.values())} if there else {}
        return {"fractions": shares | pool}
    if missing := [split for split in shares if split not in there]:
        raise InputError(
            f"{layout.folder} has folders for {' and '.join(there)}, but none for {' and '.join(missing)}. Make one, "
            f"or have all three drawn from {' and '.join(there.values())}: add --draw."
        )
    return {split: name for split, name in there.items() if split != name} or dict(there)


def _with_settings(text: str, name: str, values: dict[str, list[object]]) -> str:
    """The text with additional settings, after validating them.

    Raises:
        InputError: the settings are invalid.
    """
    if several := [key for key, some in values.items() if len(some) > 1]:
        raise InputError(f"`{several[0]}` has several values; expected one. To search, use `lance-pipeline try`.")
    candidates(ImageClassifierAttributes.model_validate(yaml.safe_load(text)["attributes"]), values)
    return with_settings(text, name, name, to_run_config(values))


def _flow(value: dict[str, object]) -> str:
    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**6, allow_unicode=True).strip()
