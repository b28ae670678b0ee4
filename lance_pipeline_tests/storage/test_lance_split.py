import lance
import numpy as np
import pyarrow as pa
import pytest

from lance_pipeline.errors import InputError
from lance_pipeline.images import ImageLoader, LanceSplit, ingest_split
from lance_pipeline_tests.image_folders import TRAIN_COUNTS, class_image, encoded, write_image_folder


@pytest.fixture
def foreign(tmp_path):
    """A dataset written by another tool, with only the article's columns."""
    rng = np.random.default_rng(0)
    labels = ["dog", "cat", "dog", "cat", "ant"]
    images = [encoded(class_image(index, rng)) for index in range(5)]
    table = pa.table(
        {"image": images, "filename": [f"{n}.png" for n in range(5)], "label": labels, "split": ["train"] * 5}
    )
    uri = str(tmp_path / "foreign.lance")
    lance.write_dataset(table, uri)
    return uri


def test_to_table_and_to_pandas_agree(train_uri):
    split = LanceSplit(train_uri)
    table, frame = split.to_table(), split.to_pandas()
    assert len(split) == len(table) == len(frame) == sum(TRAIN_COUNTS.values())
    assert list(frame.columns) == table.schema.names
    assert frame["path"].tolist() == table["path"].to_pylist()
    assert frame["label"].value_counts().to_dict() == TRAIN_COUNTS
    assert frame["image"].tolist() == table["image"].to_pylist()


def test_columns_can_be_chosen(train_uri):
    split = LanceSplit(train_uri)
    assert split.to_table(["label", "width"]).schema.names == ["label", "width"]
    assert list(split.to_pandas(["filename"]).columns) == ["filename"]


def test_batches_hold_the_rows_in_their_order(train_uri):
    split = LanceSplit(train_uri)
    batches = list(split.to_batches(["path"], batch_size=4))
    assert max(map(len, batches)) <= 4
    assert [path for batch in batches for path in batch["path"].to_pylist()] == split.to_table()["path"].to_pylist()


def test_size_covers_the_images(train_uri, train_folder):
    split = LanceSplit(train_uri)
    assert split.size_in_bytes() > sum(map(len, split.to_table(["image"])["image"].to_pylist()))


def test_an_older_version_does_not_change(tmp_path):
    root = write_image_folder(tmp_path / "pets", {"train": {"cat": 2, "dog": 2}})
    uri = str(tmp_path / "train.lance")
    first = ingest_split(root, "train", uri)
    opened = LanceSplit(uri)
    write_image_folder(root, {"train": {"emu": 3}})
    ingest_split(root, "train", uri)
    old = LanceSplit(uri, first.version)
    for split in (opened, old):
        assert (split.version, len(split), split.classes) == (1, 4, ["cat", "dog"])
    newest = LanceSplit(uri)
    assert (newest.version, len(newest), newest.classes) == (2, 7, ["cat", "dog", "emu"])


def test_missing_dataset_and_version(train_uri, tmp_path):
    with pytest.raises(InputError, match=r"nothing\.lance"):
        LanceSplit(str(tmp_path / "nothing.lance"))
    with pytest.raises(InputError, match=r"99\b.*train\.lance"):
        LanceSplit(train_uri, 99)


def test_a_dataset_of_another_tool(foreign):
    split = LanceSplit(foreign)
    assert (len(split), split.facts, split.classes) == (5, {}, ["ant", "cat", "dog"])
    assert split.to_pandas()["label"].tolist() == ["dog", "cat", "dog", "cat", "ant"]


def test_the_loader_reads_a_dataset_of_another_tool(foreign):
    loader = ImageLoader(foreign, batch_size=2, image_size=12, training=False)
    batches = list(loader)
    assert [labels.tolist() for _, labels in batches] == [[2, 1], [2, 1], [0]]
    assert batches[0][0].shape == (2, 3, 12, 12)


def test_an_undecodable_row_of_another_tool_is_named(tmp_path):
    uri = str(tmp_path / "bad.lance")
    table = pa.table({"image": [b"bad"], "filename": ["broken.png"], "label": ["cat"], "split": ["train"]})
    lance.write_dataset(table, uri)
    with pytest.raises(InputError, match=r"broken\.png.*bad\.lance"):
        list(ImageLoader(uri, batch_size=2, image_size=8, training=False))
