"""Loaders read any Lance dataset with a column of encoded images and a column of labels."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pytest
from lance.arrow import EncodedImageType
from PIL import Image

from lance_pipeline.errors import InputError
from lance_pipeline.images import CachePlace, ImageDataset, ImageLoader, LanceSplit
from lance_pipeline_tests.image_folders import encoded
from lance_pipeline_tests.loader.loaders import assert_same, batches

ROWS, SIZE = 23, 12
FILES = [
    encoded(Image.fromarray(np.random.default_rng(number).integers(0, 256, (SIZE, SIZE, 3), np.uint8)))
    for number in range(ROWS)
]
BLOB_FIELD = pa.field("image", pa.large_binary(), metadata={"lance-encoding:blob": "true"})


def field(kind: pa.DataType) -> pa.Field:
    return pa.field("image", kind)


def array(kind: pa.DataType, values: Sequence[bytes | None]) -> pa.Array:
    if isinstance(kind, EncodedImageType):
        return pa.ExtensionArray.from_storage(kind, pa.array(values, kind.storage_type))
    if kind == lance.blob_field("image").type:
        return lance.blob_array(list(values))
    return pa.array(values, pa.binary()).dictionary_encode() if pa.types.is_dictionary(kind) else pa.array(values, kind)


KINDS: dict[str, tuple[pa.Field, Any]] = {
    "binary": (field(pa.binary()), "2.0"),
    "large_binary": (field(pa.large_binary()), "2.2"),
    "binary_view": (field(pa.binary_view()), "2.1"),
    "extension": (field(EncodedImageType()), "2.1"),
    "dictionary": (field(pa.dictionary(pa.int32(), pa.binary())), "2.1"),
    "blob 2.0": (BLOB_FIELD, "2.0"),
    "blob 2.1": (BLOB_FIELD, "2.1"),
    "blob 2.2": (BLOB_FIELD, "2.2"),
    "blob v2": (lance.blob_field("image"), "2.2"),
}


def write(
    uri: Path | str,
    kind: str = "binary",
    images: Sequence[bytes | None] | None = None,
    *,
    stable: bool = False,
    **columns,
) -> str:
    """Write rows in several fragments, with two rows more, which are deleted again."""
    image, version = KINDS[kind]
    images = list(images or FILES)
    columns = {name: list(values) for name, values in columns.items()} or {
        "label": [f"class{number % 3}" for number in range(len(images))]
    }
    schema = pa.schema([image, *pa.table(columns).schema, ("gone", pa.bool_())])
    gone = [False] * len(images)
    for place in (3, 0):
        for values in (images, *columns.values()):
            values.insert(place, values[-1])
        gone.insert(place, True)
    table = pa.table([array(image.type, images), *columns.values(), gone], schema=schema)
    lance.write_dataset(
        table, str(uri), max_rows_per_file=9, data_storage_version=version, enable_stable_row_ids=stable
    ).delete("gone")
    return str(uri)


def loader(uri: str, **options) -> ImageLoader:
    return ImageLoader(uri, **({"batch_size": 5, "image_size": SIZE, "training": True, "cache": None} | options))


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The batches of the dataset with a plain column, which other tests cover."""
    return batches(loader(write(tmp_path_factory.mktemp("plain") / "plain.lance", "large_binary")))


@pytest.mark.parametrize("stable", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_image_column(tmp_path, expected, kind, stable):
    uri = write(tmp_path / "images.lance", kind, stable=stable)
    streamed, cached = loader(uri), loader(uri, cache=CachePlace(str(tmp_path / "cache")))
    assert_same(batches(streamed), expected)
    for one in (cached, cached, loader(uri, cache=CachePlace(str(tmp_path / "cache")))):
        assert_same(batches(one), expected)
    assert cached.mode.startswith("cached in")
    stored = np.concatenate([images.numpy() for images, _ in batches(loader(uri, training=False))])
    dataset = ImageDataset(uri, image_size=SIZE)
    for image, pixels in zip([dataset[row][0] for row in range(ROWS)], stored, strict=True):
        assert np.array_equal(image.numpy(), pixels)


@pytest.mark.parametrize("kind", ["binary", "blob v2"])
def test_columns_of_other_names(tmp_path, expected, kind):
    labels = [f"class{number % 3}" for number in range(ROWS)]
    path = write(tmp_path / "first.lance", kind, label=labels)
    # The usual names hold something else.
    others = {"label": [["a", "b"]] * ROWS, "path": list(range(ROWS)), "image_digest": ["x"] * ROWS}
    table = lance.dataset(path).scanner(columns=["image"], blob_handling="all_binary").to_table()
    swapped = [FILES[-1 - row] for row in range(ROWS)]
    schema = pa.schema(
        [KINDS[kind][0].with_name("Photo (jpg)"), ("Klasse", pa.string()), ("image", pa.binary())]
        + [(name, pa.infer_type(values)) for name, values in others.items()]
    )
    image = array(KINDS[kind][0].type, table["image"].to_pylist())
    uri = str(tmp_path / "renamed.lance")
    lance.write_dataset(
        pa.table([image, labels, swapped, *others.values()], schema=schema), uri, data_storage_version="2.2"
    )
    names: dict[str, Any] = {"image_column": "Photo (jpg)", "label_column": "Klasse"}
    place = CachePlace(str(tmp_path / "cache"))
    assert sorted_pixels(loader(uri, **names)) == sorted_pixels(expected)
    assert LanceSplit(uri, **names).classes == ["class0", "class1", "class2"]
    # Both columns in one cache folder.
    for _ in range(2):
        assert sorted_pixels(loader(uri, **names, cache=place)) == sorted_pixels(expected)
        flipped = loader(uri, label_column="Klasse", training=False, cache=place)
        assert np.array_equal(all_pixels(flipped)[::-1], all_pixels(loader(uri, **names, training=False)))
    assert ImageDataset(uri, image_size=SIZE, **names)[0][1] == 0


def sorted_pixels(loaded) -> list[tuple[bytes, int]]:
    return sorted(
        (image.numpy().tobytes(), label)
        for images, labels in loaded
        for image, label in zip(images, labels.tolist(), strict=True)
    )


def all_pixels(loaded) -> np.ndarray:
    return np.concatenate([images.numpy() for images, _ in loaded])


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["b", "a", "ü"], ["a", "b", "ü"]),
        ([7, -2, 300], [-2, 7, 300]),
        (pa.array([True, False, True]), [False, True]),
        (pa.array(["b", "a", "b"], pa.large_string()), ["a", "b"]),
        (pa.array(["b", "a", "b"], pa.string_view()), ["a", "b"]),
        (pa.array(["b", "a", "b", "fox"]).dictionary_encode()[:3], ["a", "b"]),
        (pa.array([3, 0, 3], pa.uint8()), [0, 3]),
    ],
)
def test_kinds_of_labels(tmp_path, labels, classes):
    uri = str(tmp_path / "labels.lance")
    lance.write_dataset(pa.table({"image": FILES[:3], "label": labels}), uri)
    for one in (loader(uri, training=False), loader(uri, training=False, classes=[*reversed(classes), "more"])):
        ((_, found),) = batches(one)
        assert [one.classes[index] for index in found.tolist()] == pa.array(labels).to_pylist()
    assert LanceSplit(uri).classes == classes
    assert [ImageDataset(uri, image_size=8)[row][1] for row in range(3)] == list(
        map(classes.index, pa.array(labels).to_pylist())
    )


REFUSED = {
    "null": (["a", "b", None], r"'kind'.*row 2\b"),
    "nan": ([0.0, float("nan"), 1.0], r"'kind'.*row 1\b"),
    "all null": (pa.nulls(3), r"'kind'.*row 0\b"),
    "null of a dictionary": (pa.array(["a", None, "b"]).dictionary_encode(), r"'kind'.*row 1\b"),
    "list": ([["a"], ["b", "c"], []], "'kind'.*list"),
    "struct": ([{"x": 1}] * 3, "'kind'.*struct"),
    "fixed list": (pa.array([[1, 2]] * 3, pa.list_(pa.int32(), 2)), "'kind'.*list"),
}
OPENERS: list[Callable] = [
    lambda uri: loader(uri, label_column="kind"),
    lambda uri: loader(uri, label_column="kind", classes=["a", "b"]),
    lambda uri: ImageDataset(uri, image_size=8, label_column="kind"),
    lambda uri: LanceSplit(uri, label_column="kind").classes,
]


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("opener", OPENERS)
def test_rows_with_no_label_or_several_are_refused(tmp_path, case, opener):
    labels, message = REFUSED[case]
    uri = str(tmp_path / "labels.lance")
    lance.write_dataset(pa.table({"image": FILES[:3], "kind": labels}), uri)
    with pytest.raises(InputError, match=message) as raised:
        opener(uri)
    assert uri in str(raised.value)


def test_the_row_without_a_label_is_counted_over_batches(tmp_path):
    uri, rows = str(tmp_path / "many.lance"), 70_000
    labels = pa.array(["a"] * rows + [None])
    lance.write_dataset(pa.table({"image": pa.array([b""] * len(labels)), "label": labels}), uri)
    with pytest.raises(InputError, match=f"row {rows}\\b"):
        loader(uri)


@pytest.mark.parametrize("columns", [{"image_column": "photo"}, {"label_column": "photo"}])
def test_missing_columns_are_named_with_those_that_are_there(tmp_path, columns):
    uri = write(tmp_path / "images.lance")
    for opener in (loader, lambda uri, **names: ImageDataset(uri, image_size=8, **names)):
        with pytest.raises(InputError, match=r"'photo'.*image, label") as raised:
            opener(uri, **columns)
        assert next(iter(columns)) in str(raised.value)


@pytest.mark.parametrize("values", [["x.png"] * 3, [1, 2, 3], [{"bytes": b"", "path": "x"}] * 3, [[b"x"]] * 3])
def test_columns_that_hold_no_encoded_images(tmp_path, values):
    uri = str(tmp_path / "images.lance")
    lance.write_dataset(pa.table({"image": values, "label": ["a"] * 3}), uri)
    for opener in (loader, lambda uri: ImageDataset(uri, image_size=8)):
        with pytest.raises(InputError, match=r"'image'.*binary"):
            opener(uri)


@pytest.mark.parametrize("bad", [b"no image", b"", None])
@pytest.mark.parametrize("kind", KINDS)
def test_bad_images_are_named_by_their_rows_or_skipped(tmp_path, kind, bad):
    images = [*FILES[:4], bad, *FILES[5:9], bad]
    uri = write(tmp_path / "bad.lance", kind, images)
    for place in (None, CachePlace(str(tmp_path / "cache"))):
        with pytest.raises(InputError, match=r"\brow 4 of .*bad\.lance"):
            list(loader(uri, training=False, cache=place))
        one = loader(uri, training=False, cache=place, on_bad_image="skip")
        for _ in range(2):
            assert [len(labels) for _, labels in one] == [4, 4]
            assert one.take_stats().skipped == 2
    dataset = ImageDataset(uri, image_size=8)
    with pytest.raises(InputError, match=r"\brow 9 of .*bad\.lance"):
        dataset[9]
    assert loader(uri, training=False).batch_paths(1) == [f"row {row}" for row in range(5, 10)]


def test_bad_images_are_named_by_file_names_where_there_are_some(tmp_path):
    names = ["a.png", None, "c.png"]
    uri = str(tmp_path / "bad.lance")
    lance.write_dataset(pa.table({"image": [FILES[0], b"", b""], "label": ["x"] * 3, "filename": names}), uri)
    dataset = ImageDataset(uri, image_size=8)
    for row, name in ((1, "row 1 of"), (2, "'c.png' of")):
        with pytest.raises(InputError, match=name):
            dataset[row]


@pytest.mark.parametrize("sizes", [["12"] * ROWS, [12] * (ROWS - 1) + [None], [0] * ROWS, [13] * ROWS])
def test_widths_that_are_no_sizes_are_not_trusted(tmp_path, sizes):
    from lance_pipeline.images import Augment

    labels = [f"class{number % 3}" for number in range(ROWS)]
    uri = write(tmp_path / "sizes.lance", label=labels, width=sizes, height=sizes)
    options = {"augment": Augment(resized_crop=(0.2, 1.0)), "cache_size": 10}
    streamed = batches(loader(uri, **options))
    cached = loader(uri, **options, cache=CachePlace(str(tmp_path / "cache")))
    for _ in range(2):
        assert_same(batches(cached), streamed)


def test_large_blobs_are_read_in_small_windows(tmp_path):
    """The data files hold only descriptions of them."""
    large = [FILES[row % ROWS] + np.random.default_rng(row).bytes(300_000) for row in range(40)]
    orders = [
        loader(write(tmp_path / f"{kind}.lance", kind, large))._epoch_batches()._order
        for kind in ("blob v2", "large_binary")
    ]
    assert orders[0].clump == orders[1].clump < 5
    assert orders[0].window == orders[1].window
