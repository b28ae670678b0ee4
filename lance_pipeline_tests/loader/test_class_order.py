"""A dataset stored class by class is noticed, said once, and read so that batches are mixed."""

import io
from collections.abc import Callable

import lance
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from lance_pipeline.images import CachePlace, ImageLoader
from lance_pipeline_tests.loader.loaders import assert_same, batches

CLASSES, PER_CLASS, BATCH = 20, 18, 32
ROWS = CLASSES * PER_CLASS
SORTED = np.repeat(np.arange(CLASSES), PER_CLASS)
MIXED = np.random.default_rng(1).permutation(SORTED)


def photo(rng: np.random.Generator) -> bytes:
    with io.BytesIO() as file:
        Image.fromarray(rng.integers(0, 256, (183, 183, 3), np.uint8)).save(file, "PNG", compress_level=0)
        return file.getvalue()


@pytest.fixture(scope="module")
def write(tmp_path_factory) -> Callable[[np.ndarray], str]:
    """Writes images of 100 kB with these labels."""
    # All different, because Lance stores equal values once.
    rng = np.random.default_rng(0)
    files = [photo(rng) for _ in range(ROWS)]

    def write(labels: np.ndarray) -> str:
        uri = str(tmp_path_factory.mktemp("large") / "large.lance")
        table = pa.table({"image": files, "label": labels})
        lance.write_dataset(table, uri)
        return uri

    return write


def loader(uri: str, **options) -> ImageLoader:
    return ImageLoader(uri, **({"batch_size": BATCH, "image_size": 8, "training": True, "cache": None} | options))


def distinct_classes(loaded) -> float:
    return float(np.mean([len(labels.unique()) for _, labels in loaded if len(labels) == BATCH]))


def said(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if "class by class" in record.getMessage()]


def test_rows_stored_class_by_class(write, tmp_path, caplog):
    uri = write(SORTED)
    one, cached = loader(uri), loader(uri, cache=CachePlace(str(tmp_path)))
    epochs = []
    for epoch in (0, 1):
        for each in (one, cached):
            each.set_epoch(epoch)
        epochs.append(batches(one))
        assert_same(batches(cached), epochs[-1])
        assert sorted(label for _, labels in epochs[-1] for label in labels.tolist()) == SORTED.tolist()
    rng = np.random.default_rng(0)
    full = [len(np.unique(rng.permutation(SORTED)[:BATCH])) for _ in range(500)]
    assert all(distinct_classes(epoch) > 0.9 * np.mean(full) for epoch in epochs)
    assert cached.mode.startswith("cached in")
    # Once for each loader.
    assert len(said(caplog)) == 2
    assert uri in said(caplog)[0]


@pytest.mark.parametrize(("labels", "training"), [(MIXED, True), (SORTED, False)])
def test_other_orders_keep_their_clumps(write, caplog, labels, training):
    order = loader(write(labels), training=training)._epoch_batches()._order
    assert (order.clump, order.window) == (10, 16)
    assert not said(caplog)
