"""Columns that other tools add to a split survive everything that happens to it; rows that come later have nulls."""

import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pytest

from lance_pipeline.errors import InputError
from lance_pipeline.images import ImageLoader, LanceSplit, ingest_split
from lance_pipeline.imaging import derived_columns
from lance_pipeline.ingest.maintenance import tidy
from lance_pipeline.ingest.repair import repair_from_versions
from lance_pipeline.ingest.seen_files import SeenFiles
from lance_pipeline.ingest.stored_split import StoredSplit
from lance_pipeline.storage.foreign_columns import allow_nulls
from lance_pipeline.storage.table_errors import ConflictError
from lance_pipeline.storage.verification import verify_rows
from lance_pipeline_tests.image_folders import write_image_folder
from lance_pipeline_tests.ingest.test_derived_columns import BYTES, _interrupt, damage
from lance_pipeline_tests.storage.test_verification import flip_image

USES: dict[str, Callable[[str, str], object]] = {
    "ingest": lambda root, uri: ingest_split(root, "train", uri),
    "verify": lambda root, uri: verify_rows(lance.dataset(uri)),
    "repair": lambda root, uri: repair_from_versions(uri),
}
WIDE = {"path": "width", "data_type": pa.int64()}
EMBEDDING = pa.list_(pa.float32(), 2)
PLACE = pa.struct([pa.field("name", pa.string(), nullable=False), pa.field("tags", pa.list_(pa.string()))])


def add_column(uri: str, field: pa.Field, value: Any) -> None:
    """Add a column with the same value in every row, as another tool does."""
    schema = pa.schema([field])

    def column(rows: pa.RecordBatch) -> pa.RecordBatch:
        return pa.record_batch([pa.array([value] * len(rows), field.type)], schema=schema)

    lance.dataset(uri).add_columns(lance.batch_udf(schema)(column), ["path"])


def add_sql(uri: str) -> None:
    # A literal is never null, so the column is not nullable.
    lance.dataset(uri).add_columns({"note": "'seen'"})


def merge_table(uri: str) -> None:
    paths = lance.dataset(uri).to_table(columns=["path"])["path"]
    lance.dataset(uri).merge(pa.table({"path": paths, "note": ["seen"] * len(paths)}), "path")


# How another tool adds a column: its name, and the value that the rows have.
COLUMNS: dict[str, tuple[Callable[[str], None], str, Any]] = {
    "literal": (add_sql, "note", "seen"),
    "merged": (merge_table, "note", "seen"),
    "empty": (lambda uri: lance.dataset(uri).add_columns(pa.field("note", pa.string())), "note", None),
    "embedding": (lambda uri: add_column(uri, pa.field("e", EMBEDDING), [1, 2]), "e", [1.0, 2.0]),
    "strict embedding": (lambda uri: add_column(uri, pa.field("e", EMBEDDING, False), [1, 2]), "e", [1.0, 2.0]),
    "struct": (
        lambda uri: add_column(uri, pa.field("p", PLACE), {"name": "x", "tags": ["y"]}),
        "p",
        {"name": "x", "tags": ["y"]},
    ),
    "strict struct": (
        lambda uri: add_column(uri, pa.field("p", PLACE, False), {"name": "x", "tags": None}),
        "p",
        {"name": "x", "tags": None},
    ),
    "strict list": (lambda uri: add_column(uri, pa.field("l", pa.list_(pa.int8()), False), [1]), "l", [1]),
    "odd name": (lambda uri: add_column(uri, pa.field("Über PATH", pa.int8(), False), 1), "Über PATH", 1),
    "like ours": (lambda uri: add_column(uri, pa.field("Path", pa.int8(), False), 1), "Path", 1),
}


@pytest.fixture
def root(tmp_path: Path) -> str:
    return write_image_folder(tmp_path / "raw", {"train": {"cat": 5, "dog": 4}})


@pytest.fixture
def uri(root: str, tmp_path: Path) -> str:
    return ingest_split(root, "train", tmp_path / "train.lance").uri


def add_image(root: str, name: str) -> None:
    write_image_folder(Path(root, "more"), {"": {"cat": 1}}, seed=len(name) + ord(name[0]))
    shutil.move(Path(root, "more", "cat", "000.png"), Path(root, "train", name))


def values(uri: str, name: str) -> dict[str, Any]:
    rows = lance.dataset(uri).to_table(columns=["path", name]).to_pylist()
    return {row["path"]: row[name] for row in rows}


def require_sound(uri: str, rows: int) -> None:
    """The split is what was ingested; the loaders, and the article's reader, read it."""
    dataset = lance.dataset(uri)
    dataset.validate()
    assert verify_rows(dataset).passed
    frame = dataset.to_table().to_pandas()
    assert list(frame.columns[:4]) == ["image", "filename", "label", "split"]
    assert len(frame) == rows == len(LanceSplit(uri))
    loader = ImageLoader(uri, batch_size=4, image_size=8, training=True, cache=None)
    assert sum(len(labels) for _, labels in loader) == rows


@pytest.mark.parametrize("kind", COLUMNS)
def test_a_column_survives_increments_compaction_and_repairs(root: str, uri: str, kind: str):
    add, name, value = COLUMNS[kind]
    add(uri)
    add_image(root, "cat/new.png")
    Path(root, "train", "dog", "000.png").unlink()
    report = ingest_split(root, "train", uri)
    assert (report.rows, report.added, report.removed) == (9, 1, 1)
    found = values(uri, name)
    assert found.pop("cat/new.png") is None
    assert set(map(str, found.values())) == {str(value)}
    require_sound(uri, 9)
    assert ingest_split(root, "train", uri).version == report.version

    tidy(uri, timedelta(0), f"{uri.removesuffix('.lance')}_seen")
    found = values(uri, name)
    assert (found.pop("cat/new.png"), set(map(str, found.values()))) == (None, {str(value)})

    flip_image(Path(uri), "dog/001.png")
    assert ingest_split(root, "train", uri, repair=True).damaged == 1
    found = values(uri, name)
    del found["cat/new.png"], found["dog/001.png"]
    assert set(map(str, found.values())) == {str(value)}
    require_sound(uri, 9)


def test_a_column_survives_a_repair_from_older_versions(root: str, uri: str):
    add_sql(uri)
    tidy(uri, timedelta(days=1))
    add_image(root, "cat/new.png")
    ingest_split(root, "train", uri)
    older = LanceSplit(uri)
    lance.dataset(uri).optimize.compact_files()
    newest = Path(uri, "data", str(lance.dataset(uri).get_fragments()[0].metadata.files[0].path))
    damage(newest, older, "dog/001.png")
    assert repair_from_versions(uri).same
    found = values(uri, "note")
    del found["cat/new.png"], found["dog/001.png"]
    assert set(found.values()) == {"seen"}
    require_sound(uri, 10)


def test_columns_come_and_go(root: str, uri: str):
    """Data files name columns by numbers, which have gaps then."""
    add_column(uri, pa.field("first", pa.int8(), nullable=False), 1)
    add_column(uri, pa.field("second", pa.string(), nullable=False), "two")
    lance.dataset(uri).drop_columns(["first"])
    add_image(root, "cat/new.png")
    assert ingest_split(root, "train", uri).rows == 10
    add_column(uri, pa.field("third", pa.int8(), nullable=False), 3)
    add_image(root, "cat/newer.png")
    assert ingest_split(root, "train", uri).rows == 11
    second, third = values(uri, "second"), values(uri, "third")
    assert {second.pop("cat/new.png"), second.pop("cat/newer.png")} == {None}
    assert (third.pop("cat/newer.png"), set(second.values()), set(third.values())) == (None, {"two"}, {3})
    require_sound(uri, 11)


def test_a_column_that_comes_after_an_interrupted_ingest(root: str, uri: str, monkeypatch: pytest.MonkeyPatch):
    add_image(root, "cat/new.png")
    with monkeypatch.context() as context:
        context.setattr("lance_pipeline.ingest.ingestion._commit_split", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            ingest_split(root, "train", uri)
    SeenFiles(f"{uri.removesuffix('.lance')}_seen").mark_stopped()
    add_sql(uri)
    assert ingest_split(root, "train", uri).rows == 10
    assert values(uri, "note")["cat/new.png"] is None
    require_sound(uri, 10)


def test_metadata_of_other_tools_stay(root: str, uri: str):
    lance.dataset(uri).update_schema_metadata({"theirs": "kept"})
    add_image(root, "cat/new.png")
    ingest_split(root, "train", uri)
    assert lance.dataset(uri).schema.metadata[b"theirs"] == b"kept"
    require_sound(uri, 10)


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda dataset: dataset.drop_columns(["sha256"]), "'sha256' is missing"),
        (lambda dataset: dataset.drop_columns(["width", "height"]), "'height' is missing"),
        (lambda dataset: dataset.alter_columns({"path": "label", "name": "klass"}), "'label' is missing"),
        (
            lambda dataset: dataset.alter_columns(WIDE),
            "'width' has the type int64",
        ),
    ],
    ids=["dropped", "several", "renamed", "converted"],
)
def test_changed_columns_of_ours_are_named(root: str, uri: str, change: Callable[[Any], None], named: str, use: str):
    before = lance.dataset(uri).version
    change(lance.dataset(uri))
    add_image(root, "cat/new.png")
    with pytest.raises(InputError, match=named) as caught:
        USES[use](root, uri)
    command = f"lance.dataset({uri!r}, version={before}).restore()"
    assert command in str(caught.value)
    eval(command, {"lance": lance})
    assert ingest_split(root, "train", uri).rows == 10
    require_sound(uri, 10)


@pytest.mark.parametrize("kind", [pa.float64(), pa.string()])
def test_a_column_with_the_name_of_a_new_one_of_ours_is_named(
    root: str, uri: str, monkeypatch: pytest.MonkeyPatch, kind: pa.DataType
):
    add_column(uri, pa.field("bytes_per_pixel", kind), None)
    monkeypatch.setattr(derived_columns, "DERIVED_COLUMNS", (BYTES,))
    with pytest.raises(InputError, match="'bytes_per_pixel'") as caught:
        ingest_split(root, "train", uri)
    eval(str(caught.value).split("`")[1], {"lance": lance})
    assert ingest_split(root, "train", uri).rows == 9
    require_sound(uri, 9)
    assert np.all(np.array(list(values(uri, "bytes_per_pixel").values())) > 0)


def test_a_writer_that_overtakes_is_a_conflict(uri: str):
    add_sql(uri)
    stored = StoredSplit("train", uri)
    lance.dataset(uri).delete("label = 'dog'")
    assert stored.dataset is not None
    with pytest.raises(ConflictError):
        allow_nulls(stored.dataset, stored.schema.names)
