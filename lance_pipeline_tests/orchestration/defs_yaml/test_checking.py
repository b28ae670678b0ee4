"""Each mistake in a ``defs.yaml`` gives one line with file, line, key, the likely intention and an example."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lance_pipeline.orchestration.defs_yaml.checking import broken_folders, mistakes
from lance_pipeline.orchestration.defs_yaml.folders import component_folders

TYPE = "type: lance_pipeline.ImageClassifier\n"
GOOD = TYPE + "attributes:\n  source: {sample: digits}\n"
NOBODY = 65534

# For each mistake: the file, and parts of its one message, which begins with the line number.
MISTAKES: dict[str, tuple[str | bytes, tuple[str, ...]]] = {
    "unknown key": (GOOD + "  colour: red\n", ("4: `attributes.colour`", "image_size", "Example: ")),
    "hyphen": (GOOD + "  image-size: 64\n", ("4: `attributes.image-size`", "`image_size`?", "image_size: 224")),
    "capital": (GOOD + "  imageSize: 64\n", ("4: `attributes.imageSize`", "`image_size`?")),
    "singular": (
        GOOD + "  recipe: {epoch: 3}\n",
        ("4: `attributes.recipe.epoch`", "`epochs`?", "recipe: {epochs: 16}"),
    ),
    "network in capitals": (GOOD + "  model: ResNet34\n", ("4: `attributes.model`", "`resnet34`", "model: resnet34")),
    "network with a hyphen": (GOOD + "  model: resnet-34\n", ("4: `attributes.model`", "`resnet34`")),
    "half a network": (GOOD + "  model: convnext\n", ("4: `attributes.model`", "`convnext_tiny`")),
    "quantized network": (GOOD + "  model: quantized_resnet50\n", ("4: `attributes.model`", "`resnet50`")),
    "network named as an asset": (GOOD + "  model: metrics_val\n", ("4: `attributes.model`", "such as resnet18")),
    "size of a network": (
        GOOD + "  model: vit_b_16\n  image_size: 32\n",
        ("5: `attributes.image_size`", "`model: vit_b_16`", "224 only", "image_size: 224"),
    ),
    "default size of a network": (GOOD + "  model: maxvit_t\n", ("2: `attributes.image_size`", "`model: maxvit_t`")),
    "least size of a network": (
        GOOD + "  image_size: 74\n  model: inception_v3\n",
        ("4: `attributes.image_size`", "`model: inception_v3`", "75 or more"),
    ),
    "stem of a network": (
        GOOD + "  model: efficientnet_b0\n  recipe:\n    stem: small\n",
        ("5: `attributes.recipe`", "`stem: small`", "`model: efficientnet_b0`"),
    ),
    "network in the recipe": (
        GOOD + "  recipe: {model: resnet18}\n",
        ("4: `attributes.recipe.model`", "model: resnet34"),
    ),
    "word for a number": (
        GOOD + "  recipe:\n    epochs: five\n",
        ("5: `attributes.recipe.epochs`", "whole number or `auto`", "recipe: {epochs: 16}"),
    ),
    "path for a source": (
        TYPE + "attributes:\n  source: /tmp/x\n",
        ("3: `attributes.source`", "source: {folder: /mnt"),
    ),
    "list for fractions": (
        GOOD + "  splits: {fractions: [0.7, 0.15, 0.15]}\n",
        ("4: `attributes.splits.fractions`", "fractions: {train: 0.7, val: 0.15, test: 0.15}"),
    ),
    "no attributes": (TYPE, ("1: `attributes`", "attributes: {source: {folder: ")),
    "empty attributes": (TYPE + "attributes:\n", ("2: `attributes`", "attributes: {source: {folder: ")),
    "misspelt attributes": (TYPE + "atributes:\n  source: {sample: digits}\n", ("2: `atributes`", "`attributes`?")),
    "wrong type": (
        GOOD.replace("Classifier", "Clasifier"),
        ("1: `type`", "Did you mean lance_pipeline.ImageClassifier"),
    ),
    "no type": ("attributes:\n  source: {sample: digits}\n", ("1: `type`", "type: lance_pipeline.ImageClassifier")),
    "tab": (GOOD + "\timage_size: 32\n", ("4: `attributes.image_size`", "tab", "spaces")),
    "cron": (
        GOOD + "  retrain:\n    cron: * * * * *\n",
        ("5: `attributes.retrain.cron`", "quotes", 'cron: "0 3 * * 1"'),
    ),
    "cron with a step": (GOOD + "  retrain: {cron: */5 * * * *}\n", ("4: `attributes.retrain.cron`", "quotes")),
    "cron as an alias": (GOOD + "  retrain: {cron: *daily}\n", ("4: `attributes.retrain.cron`", "quotes")),
    "empty": ("", ("1: ", "empty", "type: lance_pipeline.ImageClassifier")),
    "comment": ("# nothing\n", ("1: ", "empty")),
    "key twice": (GOOD + "  image_size: 32\n  image_size: 64\n", ("5: `attributes.image_size`", "twice", "line 4")),
    "key twice on a line": (GOOD + "  recipe: {seed: 1, seed: 2}\n", ("4: `attributes.recipe.seed`", "twice")),
    "weights": (
        GOOD + "  recipe: {weights: resnet34}\n",
        ("4: `attributes.recipe.weights`", "imagenet", "weights: auto"),
    ),
    "preset": (GOOD + "  recipe: {preset: fast}\n", ("4: `attributes.recipe.preset`", "`article`", "preset: article")),
    "choice": (GOOD + "  checks: {leakage: error}\n", ("4: `attributes.checks.leakage`", "`warn` or `fail`")),
    "recipe's key": (GOOD + "  epochs: 3\n", ("4: `attributes.epochs`", "`attributes.recipe`", "recipe: {epochs: 16}")),
    "indented too little": (
        TYPE + "attributes:\n  source:\n  folder: /x\n",
        ("4: `attributes.folder`", "attributes.source"),
    ),
    "not indented": (TYPE + "source: {sample: digits}\n", ("2: `source`", "below `attributes`")),
    "misspelt source": (TYPE + "attributes:\n  sorce: {sample: digits}\n", ("3: `attributes.sorce`", "`source`?")),
    "bracket": (GOOD + "  recipe: {epochs: 3\n", ("4: `attributes.recipe`", "closed")),
    "colon": (GOOD + "  description: a: b\n", ("4: `attributes.description`", "quotes")),
    "tag": (GOOD + "  description: !!python/object:os.system x\n", ("4: `attributes.description`", "quotes")),
    "anchor in itself": (GOOD + "  description: &a [*a]\n", ("4: `attributes.description`", "anchor")),
    "line break in a key": (GOOD + '  "a\\nb": 1\n', ("4: `attributes.a\\u{a}b`",)),
    "list as a key": (GOOD + "  ? [a, b]\n  : 3\n", ("4: `attributes`",)),
    "number as a key": (GOOD + "  3: 4\n", ("4: `attributes.3`",)),
    "latin": ((GOOD + "  description: Blüten\n").encode("latin-1"), ("4: ", "UTF-8")),
    "utf-16": (GOOD.encode("utf-16"), ("1: ", "UTF-8")),
    "control character": (GOOD + "  description: a\x07b\n", ("4: ", "character")),
    "byte order mark": (b"\xef\xbb\xbf" + GOOD.encode() + b"  imagesize: 3\n", ("4: `attributes.imagesize`",)),
    "Windows": (GOOD.replace("\n", "\r\n") + "  imagesize: 3\r\n", ("4: `attributes.imagesize`",)),
    "second document": (GOOD + "---\n" + GOOD + "  imagesize: 3\n", ("8: `attributes.imagesize`",)),
    "empty document": (GOOD + "---\n", ("5: ", "---")),
    "list": ("- type: x\n", ("1: ", "no keys")),
    "text": ("hello\n", ("1: ", "no keys")),
    "nesting": (GOOD + "  description: " + "[" * 3000, ("1: ", "deep")),
}


def write(folder: Path, content: str | bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "defs.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(("content", "words"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line(tmp_path: Path, content: str | bytes, words: tuple[str, ...]):
    path = write(tmp_path / "flowers", content)
    [line] = mistakes(path)
    assert line.startswith(f"{path}:{words[0]}")
    assert all(word in line for word in words), line


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + GOOD.encode(),
        GOOD.replace("\n", "\r\n"),
        "---\n" + GOOD,
        GOOD + "---\n" + GOOD + "  name: other\n",
        GOOD + "  recipe: {<<: {seed: 1}, epochs: 2}\n",
        GOOD + "  splits: &s {val: valid}\n",
        GOOD + "  model: '{{ env.NETWORK }}'\n",
        GOOD + "  model: wide_resnet50_2\n  recipe: {stem: small}\n",
        GOOD + "  recipe: {weights: ../resnet.pt}\n  description: '{{ env.X }}'\n",
        "type: dagster.DefsFolderComponent\n",
    ],
)
def test_what_is_right_has_no_mistake(tmp_path: Path, content: str | bytes):
    assert mistakes(write(tmp_path / "flowers", content)) == []


def test_keys_of_all_kinds_on_one_line_are_a_line_each(tmp_path: Path):
    assert len(mistakes(write(tmp_path / "flowers", GOOD + "  recipe: {3: 4, x: 5, ~: 6}\n"))) == 3


def test_several_mistakes_are_a_line_each_in_their_order(tmp_path: Path):
    path = write(tmp_path / "flowers", GOOD + "  recipe: {epochs: five, mixup: -1}\n  image_size: 4\n")
    lines = mistakes(path)
    assert [line.split(": ")[1] for line in lines] == [
        "`attributes.recipe.epochs`",
        "`attributes.recipe.mixup`",
        "`attributes.image_size`",
    ]


def test_a_folder_that_cannot_name_a_data_set_needs_a_name(tmp_path: Path):
    path = write(tmp_path / "my-flowers", GOOD)
    [line] = mistakes(path)
    assert "`attributes.name`" in line
    assert mistakes(write(tmp_path / "my-flowers", GOOD + "  name: mine\n")) == []


@pytest.mark.parametrize("secret", ["password: letmein1", "recipe: {letmein: letmein1}", "tags: {a: [letmein1]}"])
def test_no_value_of_an_unknown_key_or_of_a_wrong_kind_is_quoted(tmp_path: Path, secret: str):
    lines = mistakes(write(tmp_path / "flowers", GOOD + f"  {secret}\n"))
    assert lines
    assert "letmein1" not in str(lines)
    broken = mistakes(write(tmp_path / "flowers", GOOD + f"  {secret}: *letmein1\n"))
    assert "letmein1" not in str(broken)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 200), st.integers(0, 3), st.sampled_from([*"\t :*&{}[]-\"'#!?|>\n\x00é", "  ", "---\n", "a: 1\n"])
)
def test_any_edit_gives_lines_with_the_file(position: int, removed: int, inserted: str):
    good = GOOD + '  recipe: {epochs: 8, weights: none}\n  retrain:\n    cron: "0 3 * * 1"\n  tags: {a: "b"}\n'
    edited = good[:position] + inserted + good[position + removed :]
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder, "flowers"), edited)
        assert all(line.startswith(f"{path}:") and "\n" not in line for line in mistakes(path))


def broken_below(defs: Path) -> dict[str, str]:
    return {str(folder.relative_to(defs)): line for folder, line in broken_folders(component_folders(defs)).items()}


def test_files_that_are_none_are_found(tmp_path: Path):
    write(tmp_path / "good", GOOD)
    for name in ("dangling", "folder", "pipe", "misnamed", ".hidden", "no_yaml"):
        (tmp_path / name).mkdir()
    (tmp_path / "dangling" / "defs.yaml").symlink_to("nowhere")
    (tmp_path / "folder" / "defs.yaml").mkdir()
    os.mkfifo(tmp_path / "pipe" / "defs.yaml")
    (tmp_path / "misnamed" / "def.yaml").write_text(GOOD)
    (tmp_path / ".hidden" / "defs.yaml").write_text("")
    elsewhere = write(tmp_path.parent / f"{tmp_path.name}_elsewhere", "").parent
    (tmp_path / "linked").symlink_to(elsewhere)
    (tmp_path / "around").symlink_to(tmp_path)
    assert broken_below(tmp_path).keys() == {"dangling", "folder", "pipe", "misnamed", "linked", "around"}


def test_two_data_sets_of_one_name_name_each_other(tmp_path: Path):
    write(tmp_path / "digits", GOOD)
    write(tmp_path / "flowers", GOOD + "  name: digits\n")
    write(tmp_path / "twins", GOOD + "---\n" + GOOD)
    broken = broken_below(tmp_path)
    assert broken.keys() == {"flowers", "twins"}
    assert f"{tmp_path}/digits/defs.yaml" in broken["flowers"]


@contextmanager
def unprivileged() -> Iterator[None]:
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize(("name", "mode"), [("flowers", 0), ("flowers", 0o444), ("flowers/defs.yaml", 0)])
def test_what_may_not_be_read_is_named(name: str, mode: int):
    # Folders below pytest's temporary folder are closed to other users.
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        defs = Path(folder)
        defs.chmod(0o755)
        write(defs / "flowers", GOOD)
        write(defs / "digits", GOOD)
        (defs / name).chmod(mode)
        try:
            with unprivileged():
                broken = broken_below(defs)
        finally:
            (defs / name).chmod(0o755)
    assert broken.keys() == {"flowers"}
    assert f"{defs}/{name}" in broken["flowers"]
    assert "Permission denied" in broken["flowers"]
