"""Encoded images in a Lance dataset, whichever kind of binary column holds them."""

from functools import cached_property

import lance
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lance_pipeline.errors import InputError
from lance_pipeline.storage.columns import require_column
from lance_pipeline.storage.row_addresses import RowAddresses
from lance_pipeline.storage.table_errors import reading

_BLOB_KEY, _BLOB_TYPE = b"lance-encoding:blob", "lance.blob.v2"
# Assumed for blobs of unknown size, which lie in files that Lance did not write.
_UNKNOWN_BYTES = 1 << 20


class ImageColumn:
    """A column of encoded images: binary of any Arrow type, or Lance's blobs, which scans give as descriptions only.

    Args:
        dataset: the version to read.
        name: the column.

    Raises:
        InputError: there is no such column, or its type cannot hold encoded images.
    """

    def __init__(self, dataset: lance.LanceDataset, name: str) -> None:
        self._dataset, self._name = dataset, name
        field = require_column(dataset.schema, name, dataset.uri, "image_column")
        kind = field.type
        self._blobs = (field.metadata or {}).get(_BLOB_KEY) == b"true" or _extension(kind) == _BLOB_TYPE
        if not self._blobs and not _is_binary(kind):
            raise InputError(
                f"column {name!r} of {dataset.uri} has type {kind}; expected encoded images (the content of JPEG or "
                "PNG files) as binary, large_binary or blobs. Name another column with image_column."
            )

    def take(self, rows: NDArray[np.int64]) -> pa.ChunkedArray:
        """The images of these rows, in the given order, as binary or large_binary; null where there is none.

        Raises:
            DamagedError: they cannot be read.
        """
        if self._blobs:
            with reading(self._dataset.uri, self._dataset.version):
                ids = pa.array(self._rows.ids(rows))
                found = self._dataset.read_blobs(self._name, ids=ids, preserve_order=True)
            return pa.chunked_array([pa.array([data for _, data in found], pa.large_binary())])
        return _as_binary(self._rows.take(rows, [self._name]).column(0))

    def mean_bytes(self, files_bytes: int) -> float:
        """The mean number of bytes that are read for an image.

        Args:
            files_bytes: the size of the dataset's data files, which is that of the images unless they are blobs.
        """
        if not self._blobs:
            # The files still contain deleted rows.
            stored = sum(fragment.physical_rows for fragment in self._dataset.get_fragments())
            return files_bytes / max(stored, 1)
        with reading(self._dataset.uri, self._dataset.version):
            described = self._dataset.to_table(columns=[self._name])[self._name].combine_chunks()
        sizes = described.field("size").fill_null(0).to_numpy()
        sizes = np.where(sizes, sizes, _UNKNOWN_BYTES)
        return float(sizes.mean()) if len(sizes) else 0.0

    @cached_property
    def _rows(self) -> RowAddresses:
        return RowAddresses(self._dataset)


def _extension(kind: pa.DataType) -> str | None:
    return kind.extension_name if isinstance(kind, pa.BaseExtensionType) else None


def _is_binary(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.BaseExtensionType):
        return _is_binary(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return _is_binary(kind.value_type)
    checks = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary)
    return any(check(kind) for check in checks)


def _as_binary(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column with offsets into one buffer for each chunk."""
    if isinstance(column.type, pa.BaseExtensionType):
        storage = column.type.storage_type
        column = pa.chunked_array([chunk.storage for chunk in column.chunks], storage)
    kind = column.type
    return column if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) else column.cast(pa.large_binary())
