"""Labels of the rows of a Lance dataset."""

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lance_pipeline.errors import InputError
from lance_pipeline.storage.columns import Indices


class Labels(NamedTuple):
    """The labels of some rows.

    Attributes:
        codes: the index into ``names`` of each row, int64.
        names: the distinct labels.
    """

    codes: Indices
    names: list[Any]


def labels_of(column: pa.Array, name: str, uri: str, first_row: int) -> Labels:
    """The labels in a part of a column.

    Args:
        column: the part.
        name: the name of the column.
        uri: the dataset.
        first_row: the number of the part's first row in the dataset.

    Raises:
        InputError: a row has no label, or several.
    """
    if pa.types.is_nested(column.type):
        raise InputError(
            f"column {name!r} of {uri} has type {column.type}; expected one label for each row, a string or "
            "an integer. Name another column with label_column."
        )
    if pa.types.is_dictionary(column.type):
        # Dictionaries may contain nulls, and values that no row has.
        column = column.dictionary_decode()
    missing = pc.call_function("is_null", [column], pc.NullOptions(nan_is_null=True)).to_numpy(zero_copy_only=False)
    if missing.any():
        raise InputError(
            f"column {name!r} of {uri} has no label in row {first_row + int(missing.argmax())} (it is null): set the "
            "label or delete the row."
        )
    if pa.types.is_string_view(column.type):
        column = column.cast(pa.large_string())
    encoded = column.dictionary_encode()
    return Labels(encoded.indices.to_numpy().astype(np.int64), encoded.dictionary.to_pylist())
