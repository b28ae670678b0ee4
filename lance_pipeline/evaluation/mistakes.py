"""The most confident mistakes of a model, read from stored predictions."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from lance_pipeline.imaging.thumbnails import Sample, samples
from lance_pipeline.storage.lance_split import LanceSplit
from lance_pipeline.storage.tables import open_table

_COLUMNS = ["label", "predicted", "correct", "probabilities"]


class Mistake(NamedTuple):
    """A misclassified image."""

    sample: Sample
    label: str
    predicted: str
    probability: float
    """The probability of the predicted class."""


def confident_mistakes(uri: str, version: int, split: LanceSplit, count: int) -> list[Mistake]:
    """Up to ``count`` mistakes, the most confident first.

    Args:
        uri: the dataset of the predictions, in the order of the split's rows.
        version: the version of the predictions.
        split: the evaluated split, at the evaluated version.
        count: the maximum number of mistakes.

    Raises:
        DamagedError: an image differs from what was ingested.
    """
    parts, start = [], 0
    for batch in open_table(uri, version).to_batches(columns=_COLUMNS):
        wrong = np.flatnonzero(~batch["correct"].to_numpy(zero_copy_only=False))
        probabilities = batch["probabilities"].take(pa.array(wrong)).flatten().to_numpy(zero_copy_only=False)
        confidence = probabilities.reshape(len(wrong), -1).max(axis=1) if len(wrong) else probabilities
        names = batch.select(["label", "predicted"]).take(pa.array(wrong))
        parts.append(
            pa.table(
                [pa.array(wrong + start, pa.int64()), *names.columns, pa.array(confidence, pa.float32())],
                ["row", "label", "predicted", "probability"],
            )
        )
        start += len(batch)
    if not parts:
        return []
    worst = pa.concat_tables(parts).sort_by([("probability", "descending"), ("row", "ascending")]).slice(0, count)
    columns = [worst[name].to_pylist() for name in worst.column_names]
    shown = samples(split, columns[0])
    return [Mistake(sample, *one) for sample, one in zip(shown, zip(*columns[1:], strict=True), strict=True)]


def common_confusions(confusion: list[list[int]], classes: list[str], count: int) -> list[tuple[str, str, int]]:
    """The most common confusions: true class, predicted class, and number of images."""
    counts = np.array(confusion)
    np.fill_diagonal(counts, 0)
    order = np.argsort(-counts, axis=None, kind="stable")[:count]
    pairs = [tuple(map(int, np.unravel_index(one, counts.shape))) for one in order]
    return [
        (classes[true], classes[predicted], int(counts[true, predicted]))
        for true, predicted in pairs
        if counts[true, predicted]
    ]
