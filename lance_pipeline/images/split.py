"""Reading a split back."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pyarrow as pa

from lance_pipeline.images.table import Facts, open_table, read_facts

if TYPE_CHECKING:
    import pandas as pd


class LanceSplit:
    """One version of one split, to look at or to hand to other tools.

    Example:
        >>> LanceSplit("data/lance/digits_train.lance").to_pandas()  # doctest: +SKIP

    Args:
        uri: the Lance dataset, a path or an object-store URI.
        version: the version to read; the latest when None.

    Raises:
        InputError: no dataset, or no such version, is at the URI.
    """

    def __init__(self, uri: str, version: int | None = None) -> None:
        self.dataset = open_table(uri, version)
        self.uri = uri
        self.version: int = self.dataset.version
        self.facts: Facts = read_facts(self.dataset)

    def __len__(self) -> int:
        return self.dataset.count_rows()

    def size_in_bytes(self) -> int:
        """The size of the data files of this version."""
        return sum(
            file.file_size_bytes or 0 for fragment in self.dataset.get_fragments() for file in fragment.metadata.files
        )

    @property
    def classes(self) -> list[str]:
        """The labels; the position of a label is its class index, as in training.

        A dataset that another tool wrote has its labels in alphabetical order.
        """
        if "classes" in self.facts:
            return self.facts["classes"]
        return sorted(set(self.to_table(["label"])["label"].to_pylist()))

    def to_table(self, columns: list[str] | None = None) -> pa.Table:
        """The split, or some of its columns, as an Arrow table in memory."""
        return self.dataset.to_table(columns=columns)

    def to_pandas(self, columns: list[str] | None = None) -> "pd.DataFrame":
        """The split, or some of its columns, as a pandas DataFrame in memory."""
        return self.to_table(columns).to_pandas()

    def to_batches(self, columns: list[str] | None = None, batch_size: int = 1024) -> Iterator[pa.RecordBatch]:
        """The rows in their stored order, a batch at a time, in bounded memory."""
        return self.dataset.to_batches(columns=columns, batch_size=batch_size)
