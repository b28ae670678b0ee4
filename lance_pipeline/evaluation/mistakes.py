"""The mistakes that a model is most confident of, as stored predictions have them."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from lance_pipeline.imaging.thumbnails import Sample, samples
from lance_pipeline.storage.lance_split import LanceSplit
from lance_pipeline.storage.tables import open_table

_COLUMNS = ["label", "predicted", "correct", "probabilities"]


class Mistake(NamedTuple):
    """An image that was classified wrongly."""

    sample: Sample
    label: str
    predicted: str
    probability: float
    """Of the predicted class."""


def confident_mistakes(uri: str, version: int, split: LanceSplit, count: int) -> list[Mistake]:
    """Up to ``count`` mistakes, the most confident first.

    Args:
        uri: of the predictions, in the order of the split's rows.
        version: of the predictions.
        split: the split that they are of, at the version that was evaluated.
        count: the most mistakes.

    Raises:
        DamagedError: an image is not what was ingested.
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
    """The commonest mistakes: true class, predicted class, and how many images."""
    counts = np.array(confusion)
    np.fill_diagonal(counts, 0)
    order = np.argsort(-counts, axis=None, kind="stable")[:count]
    pairs = [tuple(map(int, np.unravel_index(one, counts.shape))) for one in order]
    return [
        (classes[true], classes[predicted], int(counts[true, predicted]))
        for true, predicted in pairs
        if counts[true, predicted]
    ]
