"""Adopting a trial's settings into a hand-written ``defs.yaml``."""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lance_pipeline.errors import InputError
from lance_pipeline.orchestration.trials.adoption import adopt, with_settings

HEAD = "# The flowers.\ntype: lance_pipeline.ImageClassifier\nattributes:\n  source: {folder: x}  # photos\n"
SETTINGS: dict[str, Any] = {"recipe.epochs": 30, "recipe.mixup": 0.2, "image_size": 64}
TEXTS = {
    "no recipe": HEAD + "  image_size: 32\n",
    "no recipe, and the end of the file": HEAD + "  image_size: 32  # small",
    "on one line": HEAD + "  recipe: {epochs: 8, flip: false}  # quick\n  image_size: 32\n",
    "one line, and a comma": HEAD + "  recipe: { flip: false, epochs: auto, }\n",
    "on several lines": HEAD + "  recipe: {\n    epochs: 8,  # few\n    flip: false  # digits\n  }\n",
    "as a block": HEAD + "  recipe:\n    epochs: 8  # few\n    # No mirrors.\n    flip: false\n\n  image_size: 32\n",
    "as a wide block": HEAD + "  recipe:\n        seed: 1\n        epochs: 'auto'\n# The end.\n",
    "a list as a block": HEAD + "  recipe:\n    mean:\n      - 0.1\n      - 0.2\n      - 0.3\n    std: [1, 1]\n",
    "empty": HEAD + "  recipe:\n  image_size: 32\n",
    "empty braces": HEAD + "  recipe: {}  # nothing\n",
    "a text at the end": HEAD + "  description: >-\n    Flowers,\n    many.\n\n# The end.\n",
    "Windows": (HEAD + "  recipe:\n    epochs: 8  # few\n  image_size: 32\n").replace("\n", "\r\n"),
    "braces all over": "{type: x.ImageClassifier, attributes: {source: {folder: x}, recipe: {epochs: 1}}}\n",
    "several": f"type: x.Other\nattributes: {{name: a}}\n---\n{HEAD}  name: flowers\n---\ntype: x.Third\n",
    "an alias of the same": HEAD + "  recipe: &quick {epochs: 8}\n  tags: {a: b}\nextra: *quick\n",
}


def wanted(text: str, settings: dict[str, Any]) -> list[Any]:
    documents = list(yaml.safe_load_all(text))
    attributes = next(one["attributes"] for one in documents if "source" in (one.get("attributes") or {}))
    recipe = dict(attributes.get("recipe") or {})
    recipe |= {key.removeprefix("recipe."): value for key, value in settings.items() if key.startswith("recipe.")}
    attributes |= {"recipe": recipe} | {key: value for key, value in settings.items() if "." not in key}
    return documents


def comments(text: str) -> list[str]:
    return [line.partition("#")[2].strip() for line in text.splitlines() if "#" in line]


@pytest.mark.parametrize("text", [text for name, text in TEXTS.items() if "alias" not in name], ids=lambda text: "")
def test_comments_and_order_stay(text: str):
    after = with_settings(text, "flowers", "flowers", SETTINGS)
    assert list(yaml.safe_load_all(after)) == wanted(text, SETTINGS)
    assert comments(after) == comments(text)
    # Unaffected lines are unchanged and in place.
    changed = ("epochs", "mixup", "image_size", "recipe", "attributes: {source", "flip: false  # digits")
    untouched = [line for line in text.splitlines(keepends=True) if not any(word in line for word in changed)]
    left = after.splitlines(keepends=True)
    assert [line for line in left if line in untouched][: len(untouched)] == untouched or not text.endswith("\n")
    assert ("\r\n" in after) == ("\r\n" in text)
    assert after.replace("\r\n", "").count("\n") == 0 or "\r\n" not in text


VALUES: dict[str, st.SearchStrategy[Any]] = {
    "recipe.epochs": st.integers(1, 500) | st.just("auto"),
    "recipe.learning_rate": st.none() | st.floats(1e-9, 1),
    "recipe.flip": st.booleans(),
    "recipe.mean": st.none() | st.lists(st.floats(0, 1), min_size=3, max_size=3),
    "recipe.weights": st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1),
    "image_size": st.integers(8, 1024),
}


@given(
    st.sampled_from([text for name, text in TEXTS.items() if "alias" not in name]),
    st.fixed_dictionaries({}, optional=VALUES),
)
def test_the_file_says_what_was_tried(text: str, settings: dict[str, Any]):
    after = with_settings(text, "flowers", "flowers", settings)
    expected = wanted(text, settings) if any("." in key for key in settings) else None
    found = list(yaml.safe_load_all(after))
    assert expected is None or found == expected
    assert comments(text) == [one for one in comments(after) if one in comments(text)]


@pytest.mark.parametrize(
    "text",
    [
        TEXTS["an alias of the same"],
        HEAD + "  recipe: {epochs: 1}\n  recipe: {epochs: 2}\n",
        HEAD + "  recipe:\n    epochs:\n    - 1  # kept\n    - 2\n",
        HEAD.replace("source", "name: tulips\n  source"),
        "type: x\nattributes: [a]\n",
        "just words\n",
        "a: [1\n",
        "",
    ],
)
def test_what_cannot_be_edited_safely_stays_and_the_lines_are_told(tmp_path: Path, text: str):
    path = tmp_path / "flowers" / "defs.yaml"
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(InputError) as error:
        adopt(path, "flowers", SETTINGS)
    assert path.read_text() == text
    assert [one.name for one in path.parent.iterdir()] == ["defs.yaml"]
    for words in (str(path), "image_size: 64", "recipe:", "mixup: 0.2"):
        assert words in str(error.value)


def test_the_file_stays_what_it_is(tmp_path: Path):
    real = tmp_path / "shared" / "flowers" / "defs.yaml"
    real.parent.mkdir(parents=True)
    real.write_text(TEXTS["as a block"])
    real.chmod(0o664)
    link = tmp_path / "defs.yaml"
    link.symlink_to(real)
    adopt(link, "flowers", SETTINGS)
    assert link.is_symlink()
    assert yaml.safe_load(real.read_text())["attributes"]["recipe"]["epochs"] == 30
    assert real.stat().st_mode & 0o777 == 0o664
    assert os.listdir(real.parent) == ["defs.yaml"]
