"""Reading a stored split."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from lance_pipeline.errors import DamagedError
from lance_pipeline.storage.columns import require_column
from lance_pipeline.storage.facts import Facts, read_facts
from lance_pipeline.storage.label_column import Labels, labels_of
from lance_pipeline.storage.recovery import require_original
from lance_pipeline.storage.row_digests import DESCRIBED, IMAGE_DIGEST, ROW_DIGEST, image_digests, row_digests
from lance_pipeline.storage.table_errors import damaged_rows, reading, verify_command
from lance_pipeline.storage.tables import open_table
from lance_pipeline.storage.transparency import EARLIER, TRANSPARENCY, Transparency
from lance_pipeline.storage.uris import Place, normalized_uri

if TYPE_CHECKING:
    import pandas as pd

_EXAMPLES = 5
# Rows of labels and digests that are read at once.
_LABEL_ROWS = 1 << 16


class LanceSplit:
    """One version of a split, to inspect or to pass to other tools.

    Example:
        >>> split = LanceSplit("data/lance/digits_train.lance")
        >>> len(split), split.classes[:3]
        (1257, ['0', '1', '2'])
        >>> split.to_pandas(["filename", "label"]).shape
        (1257, 2)

    Args:
        uri: the Lance dataset, a path or URI: local, ``file://`` or ``s3://``.
        version: the version to read; the latest when None.
        fingerprint: the expected fingerprint, as reported by the ingest; None skips the check.
        image_column: the column of the encoded images, for loaders.
        label_column: the column of the labels, strings or integers.

    Raises:
        InputError: the dataset or the version does not exist.
        DamagedError: it cannot be read, or has a different fingerprint.
    """

    def __init__(
        self,
        uri: Place,
        version: int | None = None,
        fingerprint: str | None = None,
        *,
        image_column: str = "image",
        label_column: str = "label",
    ) -> None:
        self.uri: str = normalized_uri(uri)
        self.dataset = open_table(self.uri, version)
        self.image_column, self.label_column = image_column, label_column
        self.version: int = self.dataset.version
        self.facts: Facts = read_facts(self.dataset)
        if fingerprint is not None:
            self._require_content(fingerprint)

    def __len__(self) -> int:
        return self.dataset.count_rows()

    def _require_content(self, fingerprint: str) -> None:
        require_original(self.uri, self.version, self.facts)
        if self.facts.get("fingerprint") != fingerprint or self.facts["rows"] != len(self):
            raise DamagedError(
                f"version {self.version} of {self.uri} is not the expected one: its {len(self)} rows have a different "
                f"fingerprint. Either the dataset was deleted or lost and written again, or it is damaged: "
                f"materialize the asset that writes it, or run: {verify_command(self.uri)}"
            )

    def size_in_bytes(self) -> int:
        """The size of the data files of this version."""
        return sum(
            file.file_size_bytes or 0 for fragment in self.dataset.get_fragments() for file in fragment.metadata.files
        )

    @property
    def classes(self) -> list[str]:
        """The labels; the position of a label is its class index, as in training.

        For a dataset written by another tool, or another column, they are sorted.

        Raises:
            InputError: there is no such column, or a row has no label, or several.
        """
        if "classes" in self.facts and self.label_column == "label":
            return self.facts["classes"]
        return sorted({name for labels, _ in self.labels() for name in labels.names})

    def labels(self, columns: Sequence[str] = ()) -> Iterator[tuple[Labels, pa.RecordBatch]]:
        """The labels of the rows in stored order, batch by batch, and other columns.

        Raises:
            InputError: there is no such column, or a row has no label, or several.
            DamagedError: they cannot be read.
        """
        require_column(self.dataset.schema, self.label_column, self.uri, "label_column")
        row = 0
        for batch in self.to_batches([self.label_column, *columns], batch_size=_LABEL_ROWS):
            yield labels_of(batch[self.label_column], self.label_column, self.uri, row), batch
            row += len(batch)

    @property
    def transparency(self) -> Transparency:
        """How transparent pixels were treated at ingest; for a dataset written by another tool, the default."""
        return self.facts.get("transparency", EARLIER if "ingest_version" in self.facts else TRANSPARENCY)

    def to_table(self, columns: list[str] | None = None) -> pa.Table:
        """The split, or some of its columns, as an Arrow table in memory.

        Raises:
            DamagedError: it cannot be read.
        """
        with reading(self.uri, self.version):
            return self.dataset.to_table(columns=columns)

    def take(self, rows: Sequence[int], columns: list[str]) -> pa.Table:
        """Columns of the rows at these positions; images are verified against their digests.

        Raises:
            DamagedError: they cannot be read, or an image has changed since it was ingested.
        """
        digests = [IMAGE_DIGEST] if "image" in columns and self._has_digests else []
        with reading(self.uri, self.version):
            table = self.dataset.take(list(rows), columns=[*columns, *digests])
        if digests:
            found = image_digests(value.as_buffer() for value in table["image"])
            self.require_intact(np.array(rows)[found != table[IMAGE_DIGEST].to_numpy()].tolist())
        return table.select(columns)

    def paths(self) -> list[str]:
        """The path of each row; all columns except the image are verified against their digests.

        Raises:
            DamagedError: they cannot be read, or have changed since they were ingested.
        """
        if ROW_DIGEST not in self.dataset.schema.names:
            return self.to_table(["path"])["path"].to_pylist()
        paths: list[str] = []
        damaged: list[int] = []
        for batch in self.to_batches([*DESCRIBED, ROW_DIGEST]):
            wrong = np.flatnonzero(row_digests(batch) != batch[ROW_DIGEST].to_numpy())
            damaged += (wrong + len(paths)).tolist()
            # Damaged text may not be valid UTF-8.
            paths += [""] * len(batch) if len(wrong) else batch["path"].to_pylist()
        self.require_intact(damaged)
        return paths

    def paths_of(self, rows: Sequence[int]) -> list[str]:
        """The path of each of these rows, or else its file name, or else ``row`` with its number."""
        names = [name for name in ("path", "filename") if name in self.dataset.schema.names]
        found = self.take(rows, names[:1]).column(0).to_pylist() if names else [None] * len(rows)
        return [f"row {row}" if path is None else str(path) for row, path in zip(rows, found, strict=True)]

    @property
    def digest_column(self) -> str | None:
        """The column with the digests of the images; None if there is none."""
        return IMAGE_DIGEST if self.image_column == "image" and self._has_digests else None

    @property
    def _has_digests(self) -> bool:
        # Another tool's column of that name holds something else.
        schema = self.dataset.schema
        return IMAGE_DIGEST in schema.names and schema.field(IMAGE_DIGEST).type == pa.uint64()

    def require_intact(self, damaged: Sequence[int]) -> None:
        """Raise if there are damaged rows.

        Raises:
            DamagedError: there are some; the message names a few by their paths.
        """
        if not damaged:
            return
        try:
            names = self.paths_of(damaged[:_EXAMPLES])
        except DamagedError:
            names = [f"row {row}" for row in damaged[:_EXAMPLES]]
        raise damaged_rows(self.uri, self.version, len(damaged), names)

    def to_pandas(self, columns: list[str] | None = None) -> "pd.DataFrame":
        """The split, or some of its columns, as a pandas DataFrame in memory."""
        return self.to_table(columns).to_pandas()

    def to_batches(self, columns: list[str] | None = None, batch_size: int = 1024) -> Iterator[pa.RecordBatch]:
        """The rows in stored order, one batch at a time, in bounded memory.

        Raises:
            DamagedError: they cannot be read.
        """
        with reading(self.uri, self.version):
            yield from self.dataset.to_batches(columns=columns, batch_size=batch_size)
