"""Facts of rows that loaders need, and where they must not be asked for."""

import os
from collections.abc import Sequence

import numpy as np

from lance_pipeline.errors import InputError
from lance_pipeline.images.columns import Indices
from lance_pipeline.images.rejection import UndecodableImageError
from lance_pipeline.images.split import LanceSplit


def label_codes(split: LanceSplit, classes: list[str]) -> Indices:
    """The class index of each row, int64 (rows,).

    Raises:
        InputError: there are labels outside of the classes.
    """
    index = {label: number for number, label in enumerate(classes)}
    codes, unknown = [np.empty(0, np.int64)], set()
    for batch in split.to_batches(["label"], batch_size=1 << 16):
        labels = batch["label"].dictionary_encode()
        names = labels.dictionary.to_pylist()
        unknown |= set(names) - index.keys()
        codes.append(np.array([index.get(name, -1) for name in names], np.int64)[labels.indices.to_numpy()])
    if unknown:
        raise InputError(f"{split.uri} has labels outside of the model's classes: {sorted(unknown)}. Train anew.")
    return np.concatenate(codes)


def paths_of(split: LanceSplit, rows: Sequence[int]) -> list[str]:
    """The path of each row or, where the dataset has none, its file name."""
    names = [name for name in ("path", "filename") if name in split.dataset.schema.names]
    return split.dataset.take(list(rows), columns=names[:1]).column(0).to_pylist()


def undecodable(split: LanceSplit, row: int, error: UndecodableImageError) -> InputError:
    """What to say of a row that cannot be decoded."""
    (path,) = paths_of(split, [row])
    return InputError(f"image {path!r} of {split.uri} cannot be decoded: {error}")


def refuse_fork(process: int) -> None:
    """Lance's threads do not survive a fork: whoever reads there would wait for ever.

    Args:
        process: the one that opened the dataset.

    Raises:
        RuntimeError: this is another one.
    """
    if os.getpid() != process:
        raise RuntimeError(
            "the Lance dataset was opened in another process and came here by a fork, in which Lance cannot read. "
            "Iterate over an ImageLoader without a DataLoader, as it has threads of its own, or give the DataLoader "
            "multiprocessing_context='spawn'."
        )
