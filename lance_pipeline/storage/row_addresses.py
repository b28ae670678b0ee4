"""Random access to rows of a Lance dataset by position or address."""

import lance
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lance_pipeline.storage.table_errors import reading


def take_addresses(dataset: lance.LanceDataset, addresses: NDArray[np.uint64], columns: list[str]) -> pa.Table:
    """Columns of the rows at these addresses, in the given order."""
    # Addresses are stable under deletions, but there is no public API to read by address.
    return dataset._take_rows(pa.array(addresses), columns=columns)  # noqa: SLF001


class RowAddresses:
    """Reads rows by position, as fast after deletions as before.

    Lance's own ``take`` becomes ten times slower once a fragment has deletions, because it locates the remaining rows
    on every call. This class locates them once.

    Args:
        dataset: the version to take from.
    """

    def __init__(self, dataset: lance.LanceDataset) -> None:
        self._dataset = dataset
        with reading(dataset.uri, dataset.version):
            self._find_rows(dataset)

    def _find_rows(self, dataset: lance.LanceDataset) -> None:
        self._ids: NDArray[np.uint64] | None = None
        fragments = dataset.get_fragments()
        self._starts = np.cumsum([0, *(fragment.count_rows() for fragment in fragments)])
        self._numbers = np.array([fragment.fragment_id for fragment in fragments], np.uint64)
        self._left: dict[int, NDArray[np.uint64]] = {}
        if dataset.has_stable_row_ids:
            self._ids = _row_ids(dataset, fragments)
            return
        for place, fragment in enumerate(fragments):
            if fragment.metadata.deletion_file is not None:
                self._left[place] = _row_ids(dataset, [fragment]) & np.uint64(0xFFFFFFFF)

    def take(self, rows: NDArray[np.int64], columns: list[str]) -> pa.Table:
        """Columns of these rows, in the given order.

        Raises:
            DamagedError: they cannot be read.
        """
        with reading(self._dataset.uri, self._dataset.version):
            return take_addresses(self._dataset, self.ids(rows), columns)

    def ids(self, rows: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Lance's ids of these rows: their addresses, unless the dataset has stable ids."""
        if self._ids is not None:
            return self._ids[rows]
        places = np.searchsorted(self._starts, rows, side="right") - 1
        offsets = (rows - self._starts[places]).astype(np.uint64)
        for place, left in self._left.items():
            here = places == place
            offsets[here] = left[offsets[here]]
        return (self._numbers[places] << np.uint64(32)) + offsets


def _row_ids(dataset: lance.LanceDataset, fragments: list[lance.LanceFragment]) -> NDArray[np.uint64]:
    return dataset.scanner(columns=[], with_row_id=True, fragments=fragments).to_table()["_rowid"].to_numpy()
