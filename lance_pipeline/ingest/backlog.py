"""The files that are left to read, kept on disk: of millions the names alone would take more memory than the work."""

import tempfile
from collections.abc import Iterator
from contextlib import suppress
from itertools import accumulate
from types import TracebackType
from typing import Self

import numpy as np
import pyarrow as pa

from lance_pipeline.errors import InputError
from lance_pipeline.ingest.examination import FILES
from lance_pipeline.storage.columns import Indices

_BATCH_FILES = 1 << 15
# What is shorter stays in memory.
_MEMORY_BYTES = 1 << 20


class Backlog:
    """Files in the order in which they are to be read.

    Args:
        files: a table with the columns of ``listing.files_to_ingest``.
        todo: which of them, as positions in the table, in that order.

    Attributes:
        files: how many.
        nbytes: of all of them together.

    Raises:
        InputError: there is no room for them on the disk.
    """

    def __init__(self, files: pa.Table, todo: Indices) -> None:
        # Or Arrow would join all pieces each time that some are picked.
        listed = files.select(FILES[:4]).combine_chunks()
        self.files, self.nbytes = len(todo), int(listed["size"].to_numpy()[todo].sum())
        self._file = tempfile.SpooledTemporaryFile(_MEMORY_BYTES)  # noqa: SIM115 -- closed on leaving
        try:
            self._write(listed, todo)
            self._file.flush()
        except OSError as error:
            with suppress(OSError):
                # What could not be written is tried once more.
                self._file.close()
            raise InputError(
                f"cannot note in a temporary file which {len(todo)} files are to be read: {error}. Make room in "
                f"{tempfile.tempdir or 'a folder for such files'}, or set TMPDIR to a folder on another disk."
            ) from error

    def stretches(self, most: int, nbytes: int) -> Iterator[pa.RecordBatch]:
        """The files, so many at a time and, one at least, of so many bytes together.

        Yields:
            A batch with the columns path, label, size, mtime_ns, and position in the table.
        """
        self._file.seek(0)
        with pa.ipc.open_stream(pa.PythonFile(self._file, "r")) as batches:
            for batch in batches:
                sizes, start = batch["size"].to_pylist(), 0
                while start < len(batch):
                    total = accumulate(sizes[start : start + most])
                    count = max(sum(1 for size in total if size <= nbytes), 1)
                    # Copied, as a slice would be sent to another process with all that it is a slice of.
                    yield batch.take(pa.array(np.arange(start, start + count)))
                    start += count

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def _write(self, listed: pa.Table, todo: Indices) -> None:
        schema = listed.schema.append(pa.field("position", pa.int64()))
        with pa.ipc.new_stream(pa.PythonFile(self._file, "w"), schema) as writer:
            for start in range(0, len(todo), _BATCH_FILES):
                some = pa.array(todo[start : start + _BATCH_FILES])
                writer.write_table(listed.take(some).append_column("position", some))
