"""Additions in a later version make nothing stale or unreadable; incompatible changes are rejected."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from lance_pipeline.errors import InputError
from lance_pipeline.images import LanceSplit, Limits, ingest_split
from lance_pipeline.ingest.seen_files import SeenFiles
from lance_pipeline.orchestration.attributes import Archive, SourceSettings, Splits
from lance_pipeline.orchestration.dataset import settings_version
from lance_pipeline.orchestration.records import Metrics, Model, RawImages, Record, Split, Training
from lance_pipeline.orchestration.retention.models import Removal
from lance_pipeline.orchestration.runtime.resumption import checkpoints_to_use, identity_digest
from lance_pipeline.orchestration.trials.record import Trial
from lance_pipeline.sources.listing import list_split_folders, store_listing
from lance_pipeline.storage.formats import LaterFormatError
from lance_pipeline.storage.schema import SEEN_SCHEMA
from lance_pipeline.storage.sealed import sealed, to_json, unsealed
from lance_pipeline.storage.tables import open_table, replace_rows
from lance_pipeline.training.checkpoint import Checkpoints, read_checkpoint
from lance_pipeline.training.device import choose_device
from lance_pipeline.training.history import read_history
from lance_pipeline.training.inputs import TrainingInputs
from lance_pipeline.training.recipe import Recipe
from lance_pipeline.training.weights import CARD_FILE, load_model
from lance_pipeline_tests.formats.write import FOLDERS, RECIPE, RUN, SIZE

ANY = Limits(max_rejected_fraction=1)
FIRST = Path(__file__).with_name("1")
DOCUMENTS: dict[str, type[Record]] = {
    f"records/tiny/raw_images/{RUN}.json": RawImages,
    f"records/tiny/lance_train/{RUN}.json": Split,
    f"records/tiny/resnet34/{RUN}.json": Model,
    f"records/tiny/resnet34/{RUN}.removing": Removal,
    f"records/tiny/metrics_val/{RUN}.json": Metrics,
    "mlflow/training.json": Training,
    "mlflow/trial.txt": Trial,
}
JSON = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.lists(st.integers(), max_size=2)
ADDED = st.dictionaries(st.text(max_size=8).map("new_{}".format), JSON, max_size=4)


class LongerRecipe(Recipe):
    """A recipe as a later version may define it."""

    warmup_epochs: int = Field(default=0, ge=0)
    teachers: list[str] = Field(default_factory=list)


class LongerArchive(Archive):
    mirrors: list[str] = Field(default_factory=list)


class LongerSource(SourceSettings):
    recursive: bool = True
    archive: LongerArchive | None = None  # pyright: ignore[reportIncompatibleVariableOverride]


class LongerSplits(Splits):
    stratified: bool = False


def fields_of(path: str) -> dict[str, Any]:
    fields = json.loads((FIRST / path).read_bytes())
    return {name: value for name, value in fields.items() if name not in ("format", "digest")}


@pytest.mark.parametrize(
    ("given", "code_version", "digest"),
    [
        ({}, "f56e799e3d2cc16a", "c63a7af3ac2c65698278a63d772b7d1b218620200bc6d8fafc45295024fc9fc7"),
        (
            {"preset": "article"},
            "e779ab9a003cd2cb",
            "8683157c64c5f990732ac328455fb8400b1e84943aabc5c3eebc8602c04613c4",
        ),
        (
            {"epochs": 3, "mixup": 0.2, "weights": "none"},
            "7ee75c0732f62b47",
            "80a73c118ccca0183813a981a6e00ec74fdaee8dcf4bfa8a28651702a6ec4f85",
        ),
    ],
    ids=["default", "preset", "own"],
)
def test_a_new_setting_leaves_models_fresh_and_trainings_as_they_are(
    given: dict[str, Any], code_version: str, digest: str
):
    for kind in (Recipe, LongerRecipe):
        recipe = kind.model_validate(given)
        # The values of the first version.
        assert settings_version("4", recipe, 32, "") == code_version
        assert identity_digest({"recipe": recipe.identity()}) == digest
        settled = recipe.resolved("cpu", 32, 1000)
        assert settled.identity() == Recipe.model_validate(given).resolved("cpu", 32, 1000).identity()


def test_every_setting_that_changes_counts():
    usual = LongerRecipe()
    for change in ({"warmup_epochs": 1}, {"teachers": ["big"]}, {"seed": 1}, {"mixup": 0.1}, {"flip": False}):
        changed = LongerRecipe.model_validate(change)
        assert changed.identity() != usual.identity()
        assert settings_version("4", changed) != settings_version("4", usual)
    # Setting the default explicitly equals not setting it.
    assert LongerRecipe(warmup_epochs=0, epochs="auto").identity() == Recipe().identity()


@pytest.mark.parametrize(
    ("source", "code_version"),
    [
        ({"sample": "digits"}, "61ba5e210071bf59"),
        ({"folder": "/mnt/photos"}, "f1624c06692930b4"),
        (
            {
                "archive": {
                    "url": "https://me:pw@example.org/flowers.zip",
                    "checksum": "md5:6ee4d0c996905fe93221de577967a372",
                }
            },
            "5e0f32fc97268203",
        ),
    ],
    ids=["sample", "folder", "archive"],
)
def test_a_new_setting_of_a_source_leaves_raw_images_fresh(source: dict[str, Any], code_version: str):
    for kind, splits in ((SourceSettings, Splits()), (LongerSource, LongerSplits())):
        assert settings_version("1", kind.model_validate(source).identity(), splits) == code_version
    changed = LongerSource.model_validate(source | {"recursive": False})
    assert settings_version("1", changed.identity(), Splits()) != code_version
    if "archive" in source:
        slow, other = (
            LongerSource.model_validate({"archive": source["archive"] | more})
            for more in ({"min_bytes_per_second": 1}, {"mirrors": ["https://b"]})
        )
        assert settings_version("1", slow.identity(), Splits()) == code_version
        assert settings_version("1", other.identity(), Splits()) != code_version


@pytest.mark.parametrize("path", DOCUMENTS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_records_with_other_fields_are_read(path: str, data: st.DataObject):
    kind, fields = DOCUMENTS[path], fields_of(path)
    whole = kind.from_json(to_json(fields), path)
    optional = [name for name, field in kind.model_fields.items() if not field.is_required()]
    lacking = data.draw(st.lists(st.sampled_from(optional), unique=True)) if optional else []
    kept: dict[str, Any] = {name: value for name, value in fields.items() if name not in lacking}
    document = data.draw(ADDED) | kept
    if "recipe" in document:
        given: dict[str, Any] = {**fields["recipe"]}
        for name in data.draw(st.lists(st.sampled_from(sorted(given)), unique=True, max_size=3)):
            if given[name] == Recipe.model_fields[name].default:
                del given[name]
        document["recipe"] = given | data.draw(ADDED)
    read = kind.from_json(to_json(document), path)
    changes = {name: kind.model_fields[name].get_default(call_default_factory=True) for name in lacking}
    assert read == whole.model_copy(update=changes)


@settings(max_examples=20)
@given(number=st.integers(2, 10**9), path=st.sampled_from(sorted(DOCUMENTS)))
def test_records_of_a_later_format_are_refused(number: int, path: str):
    document = to_json(fields_of(path) | {"format": number})
    with pytest.raises(LaterFormatError) as caught:
        DOCUMENTS[path].from_json(document, path)
    assert path in str(caught.value)
    assert str(number) in str(caught.value)
    assert "pgrade lance-pipeline, or materialize again" in str(caught.value)


@pytest.mark.parametrize("number", [0, -1, "2", None, 1.5, True])
def test_what_is_no_format_number_is_damage(number: object):
    path = "mlflow/training.json"
    with pytest.raises(InputError, match="is damaged: its format is"):
        Training.from_json(to_json(fields_of(path) | {"format": number}), path)


def committed(uri: str, more: dict[str, Any]) -> None:
    """Commit a table's rows again, with additional facts."""
    table, facts = open_table(uri), LanceSplit(uri).facts
    replace_rows(uri, table, table.schema, [one.metadata for one in table.get_fragments()], facts | more)


def test_tables_with_other_facts_are_used_as_they_are(first_files: Path):
    for uri in ("lance/tiny_train.lance", "lance/tiny_listing.lance"):
        committed(uri, {"new": [1]})
    version = LanceSplit("lance/tiny_listing.lance").version
    assert store_listing(list_split_folders("images", FOLDERS), "lance/tiny_listing.lance")[0] == version
    assert ingest_split("images", "train", "lance/tiny_train.lance", limits=ANY, transparency="grey").added == 0


@pytest.mark.parametrize("uri", ["lance/tiny_train.lance", "lance/tiny_listing.lance", "lance/tiny_val_rejected.lance"])
def test_tables_of_a_later_format_are_refused_and_left_alone(first_files: Path, uri: str):
    committed(uri, {"format": 7})
    before = open_table(uri).version
    attempts: list[Callable[[], object]] = [
        lambda: LanceSplit(uri),
        lambda: store_listing(list_split_folders("images", FOLDERS), "lance/tiny_listing.lance"),
        *(
            lambda split=split: ingest_split("images", split, f"lance/tiny_{split}.lance", limits=ANY)
            for split in FOLDERS
        ),
    ]
    refusals = []
    for attempt in attempts:
        try:
            attempt()
        except LaterFormatError as error:
            refusals.append(str(error))
    assert len(refusals) == 2
    assert all(uri in refusal and "format 7" in refusal for refusal in refusals)
    assert open_table(uri).version == before
    assert not [name for name in os.listdir("lance") if "damaged" in name]


def rewritten(path: Path, change: Callable[[pa.Table], pa.Table], **metadata: str) -> None:
    """Rewrite a step of the seen files as another version would."""
    rows = change(pa.ipc.open_file(pa.py_buffer(unsealed(path.read_bytes())[0])).read_all())
    rows = rows.replace_schema_metadata(
        (rows.schema.metadata or {}) | {key.encode(): value for key, value in metadata.items()}
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, rows.schema) as writer:
        writer.write_table(rows)
    path.write_bytes(sealed(memoryview(sink.getvalue())))


def test_what_was_seen_with_more_columns_is_remembered(first_files: Path):
    whole = SeenFiles("lance/tiny_train_seen").load()
    extra = pa.array(["x"] * len(whole))
    rewritten(Path("lance/tiny_train_seen/step-000000001.arrow"), lambda rows: rows.add_column(0, "new", extra))
    assert SeenFiles("lance/tiny_train_seen").load() == whole


def test_a_column_that_was_not_remembered_then_is_null(first_files: Path, monkeypatch: pytest.MonkeyPatch):
    whole = SeenFiles("lance/tiny_train_seen").load()
    schema = SEEN_SCHEMA.append(pa.field("new", pa.string()))
    monkeypatch.setattr("lance_pipeline.ingest.seen_files.SEEN_SCHEMA", schema)
    read = SeenFiles("lance/tiny_train_seen").load()
    assert read.schema == schema
    assert read["new"].null_count == len(read) == 5
    assert read.drop_columns(["new"]) == whole


@pytest.mark.parametrize("column", ["sha256", "reason"])
def test_what_was_seen_without_a_column_is_read_again(first_files: Path, column: str):
    path = Path("lance/tiny_train_seen/step-000000001.arrow")
    rewritten(path, lambda rows: rows.drop_columns([column]))
    assert len(SeenFiles("lance/tiny_train_seen").load()) == 0
    assert not path.exists()


def test_what_a_later_version_has_seen_is_refused_and_kept(first_files: Path):
    path = Path("lance/tiny_train_seen/step-000000001.arrow")
    rewritten(path, lambda rows: rows, format="2")
    with pytest.raises(LaterFormatError, match=rf"{path}.*format 2"):
        ingest_split("images", "train", "lance/tiny_train.lance", limits=ANY, transparency="grey")
    assert path.exists()


def identity() -> dict[str, Any]:
    train, val = (LanceSplit(f"lance/tiny_{split}.lance") for split in FOLDERS)
    return TrainingInputs(train, val, LongerRecipe.model_validate(RECIPE.model_dump()), SIZE).identity()


def choose(folder: Path, lines: list[str], *, fresh: bool = False, **change: Any) -> Checkpoints:
    return checkpoints_to_use(
        lines.append, lambda: iter(()), folder, identity() | change, choose_device("cpu"), fresh=fresh, every=600
    )


def saved(path: Path, **change: Any) -> None:
    """Write a checkpoint as another version would."""
    content = torch.load(path, weights_only=True) | change
    torch.save(content, path)
    path.write_bytes(sealed(path.read_bytes()))


def checkpoint() -> Path:
    """The set's checkpoint, moved to where this version looks for it, whatever code trained the set."""
    (path,) = Path("checkpoints/tiny").glob("*/checkpoint.pt")
    own = path.parent.with_name(identity_digest(identity())[:16])
    path.parent.rename(own)
    saved(own / path.name, identity=identity())
    return own / path.name


def test_a_new_setting_does_not_restart_a_training(first_files: Path):
    path, lines = checkpoint(), []
    stored = read_checkpoint(path.parent)
    assert stored is not None
    assert choose(path.parents[1], lines).training_id == stored.training_id


def test_a_checkpoint_with_other_fields_is_read(first_files: Path):
    path = checkpoint()
    before = read_checkpoint(path.parent)
    assert before is not None
    assert before.state is not None
    state = before.state | {"history": [one | {"new": 1.0} for one in before.state["history"]], "new": {}}
    saved(path, state=state, new="x")
    after = read_checkpoint(path.parent)
    assert after is not None
    assert after.state is not None
    assert after.training_id == before.training_id
    assert read_history(after.state["history"]) == read_history(before.state["history"])


def test_a_checkpoint_of_a_later_format_is_refused_and_kept(first_files: Path):
    path, lines = checkpoint(), []
    saved(path, format=4)
    before = path.read_bytes()
    with pytest.raises(LaterFormatError, match=rf"{path}.*format 4.*fresh: true"):
        choose(path.parents[1], lines)
    # Another training starts, and leaves it for the version that can resume it.
    choose(path.parents[1], lines, image_size=9)
    assert path.read_bytes() == before
    fresh = choose(path.parents[1], lines, fresh=True)
    assert fresh.state is None
    assert lines[-1].startswith("Starting from scratch")
    assert read_checkpoint(path.parent) is not None


def test_a_card_of_a_later_format_is_refused(first_files: Path):
    document = json.loads(Path("model", CARD_FILE).read_bytes())
    fields = {name: value for name, value in document.items() if name != "digest"}
    Path("model", CARD_FILE).write_bytes(to_json(fields | {"format": 2}))
    with pytest.raises(LaterFormatError, match=rf"model/{CARD_FILE}.*materialize the model again"):
        load_model(Path("model"))
